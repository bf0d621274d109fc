"""SOW with the paper's numbers where no YAML is read: a bare machine, a script of somebody else's.

The numbers are those of conf/calibration/paper.yaml and its groups; a test holds every component here against
the composed configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sow.attention.decay import DistanceDecay, TimeDecay
from sow.attention.gate import RegionGate
from sow.attention.modulation import Modulation
from sow.attention.strength import PMinus, PPlus
from sow.method.cycle import Cycle
from sow.method.denoiser import Model
from sow.method.guidance import ClassifierFree
from sow.method.inversion import Inversion
from sow.method.preservation import Preservation
from sow.method.run import OneWayDiffusion
from sow.method.seed_init import Background
from sow.models.backbone import make_canvas

if TYPE_CHECKING:
    from sow.models.backbone import Backbone

STEPS = 10  # K, Sec. V
CONDITION_SIZE = (180, 256)  # of a canvas of 512 pixels, Sec. V
NEGATIVE = "a bad quality and low-resolution image, extra fingers, deformed hands"

PLANNER: dict[str, Any] = {  # of planner=heuristic, which places the condition without a language model
    "center": (0.5, 0.36),
    "scale": 0.5,
    "margin": 0.04,
    "body": [-1.0, 0.7, 3.0, 4.0],
    "around": [-0.4, -0.2, 1.8, 1.9],
}


def components() -> dict[str, Any]:
    """Every component of SOW with the paper's numbers, by the name of its config group."""
    return {
        "seed_init": Background(
            color=[128, 128, 128], start="invert", mask="threshold", snap=True, coverage=None
        ),
        "inversion": Inversion(
            guidance_scale=7.5,
            negative_prompt="",
            prompt="intensified",
            levels="aligned",
            condition="alone",
            vae="mode",
        ),
        "cycle": Cycle(t1=5.0, t2=7.0, cycles=10, eta=1.0, inject_levels="aligned", steps="fitted"),
        "preservation": Preservation(
            t3=None, calibrated_t3=[4.0, 3.0], calibrated_t1=5.0, eta=0.0, prompt="user"
        ),
        "guidance": ClassifierFree(scale=7.5, negative_prompt=NEGATIVE),
        "modulation": Modulation(
            normalisation="row",
            resolutions=None,
            blocks=["down", "mid", "up"],
            branches="text",
            conditions="union",
            region="box",
        ),
        "p_plus": PPlus(omega=0.145),
        "p_minus": PMinus(omega=0.04),
        "decay_time": TimeDecay(T=10.0, a_minus=0.5, a_plus=0.8, clock="cycle"),
        "decay_distance": DistanceDecay(T=10.0, a=0.3, unit="box"),
        "gate": RegionGate(
            tau=0.273, queries="related", score="logits", scope="layer", min_points=8, fraction=0.2
        ),
    }


def one_way(
    backbone: Backbone,
    steps: int = STEPS,
    width: int | None = None,
    height: int | None = None,
    **changes: Any,
) -> OneWayDiffusion:
    """SOW on a loaded model, at its own canvas where no size in pixels is given; `changes` replace components
    by name."""
    side = int(backbone.unet.config.sample_size) * backbone.factor
    canvas = make_canvas(width or side, height or side, backbone.factor, list(CONDITION_SIZE))
    model = Model.of(backbone, steps, canvas.latent_size)
    return OneWayDiffusion(model, canvas, **{**components(), **changes})
