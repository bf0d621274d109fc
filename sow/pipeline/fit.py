"""Whether the parts of a configuration fit each other and the model's files, before torch is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.attention.modulation import Modulation
from sow.config.words import key_of
from sow.models.checkpoint import attention_layers
from sow.pipeline.memory import need_memory
from sow.planner.base import on_canvas, parse_boxes, scale_boxes
from sow.planner.fixed import Fixed

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.types import Canvas

log = logging.getLogger(__name__)

IN_CYCLES = ("sow", "cow", "densediffusion")  # the methods of Algorithm 1
SIDE = 64  # pixels, no more than any model's own: of a side that neither the user nor a local file says


def check_fit(config: Config) -> None:
    """Raise UserError for options of the method that exclude each other, and for what the model does not
    have."""
    config.inversion.check_start(config.seed_init.start)
    known = check_canvas(config)
    if known is not None and isinstance(config.modulation, Modulation):
        canvas, unet = known
        config.modulation.check_text(joint=unet is None)
        if unet is not None:
            config.modulation.check_layers(attention_layers(unet, canvas.latent_size))


def _tell_unread(config: Config) -> None:
    """Warn of words whose option nothing reads beside the others, as an ablation leaves them."""
    unread: dict[str, Sequence[str]] = {}
    modulation = ("p_plus", "p_minus", "decay_time", "decay_distance", "gate")
    if not isinstance(config.modulation, Modulation):
        unread["there is no modulation"] = modulation
    if config.choices.get("method") not in IN_CYCLES:
        unread["the method has no cycles"] = ("cycle", "preservation", "modulation", *modulation)
    if (own := getattr(config.condition, "boxes", ())) and all(box is not None for box in own):
        unread["condition.box places it"] = ("planner.boxes",)
    if config.choices.get("position") == "fixed":
        unread["position=fixed places it"] = ("condition.box", "planner.boxes")
    if getattr(config.inversion, "guidance_scale", None) == 1:
        unread["the inversion has no guidance"] = ("inversion.negative_prompt",)
    if getattr(config.inversion, "solver", None) == "free":
        unread["the inversion asks no network"] = (
            *("inversion.guidance_scale", "inversion.prompt"),
            *("inversion.negative_prompt", "inversion.levels"),
        )
    if getattr(config.gate, "factor_of", None) == "one":
        unread["the gate is always open, by the factor one"] = ("gate.tau",)
    if getattr(config.condition, "mask", "") in (None, "none"):
        unread["no mask is read"] = ("condition.keep",)
    if config.choices.get("guidance") == "none":
        unread["there is no guidance"] = ("guidance.scale", "guidance.negative_prompt")
    if config.choices.get("intensify") == "none":
        unread["no prompt is intensified"] = ("inversion.prompt", "preservation.prompt")
    for reason, options in unread.items():
        for key in map(key_of, config.words):
            if any(key == option or key.startswith(f"{option}.") for option in options):
                log.warning("%s is not read: %s (%s)", key, reason, key)


def check_canvas(config: Config) -> tuple[Canvas, Mapping[str, Any] | None] | None:
    """The canvas and the UNet's configuration (None for a transformer), None for a model that is still to be
    fetched.

    Raises UserError for sides that the model cannot make or this machine cannot hold, and for a box of the
    user that leaves the canvas.
    """
    _tell_unread(config)
    known = config.model.known(config.width, config.height)
    _check_memory(config, None if known is None else known[0])
    if known is not None:
        check_boxes(config, known[0])
    return known


def _check_memory(config: Config, canvas: Canvas | None) -> None:
    """Raise UserError for a batch of pictures that this machine cannot hold; a canvas that is not known yet
    has the sides that the user gave."""
    given = config.model.canvas or (0, 0)
    width, height = (config.width or given[0], config.height or given[1])
    if canvas is not None:
        width, height = canvas.width, canvas.height
    images = getattr(config.study, "images", 1)
    together = min(config.batch_size or 1, images if isinstance(images, int) else 1)
    need_memory(width or SIDE, height or SIDE, together, config.model.device)


def check_boxes(config: Config, canvas: Canvas) -> None:
    """Raise UserError for a box of the user that leaves the canvas."""
    own = getattr(config.condition, "boxes", ())
    for box in own:
        if box is not None:
            on_canvas(box, canvas, "condition.box")
    if isinstance(config.planner, Fixed) and not (own and all(own)):
        given = parse_boxes(config.planner.boxes, "planner.boxes")
        for box in scale_boxes(given, config.planner.reference, canvas):
            on_canvas(box, canvas, "planner.boxes")
