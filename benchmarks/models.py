"""What is measured: the embedded model, or Stable Diffusion 2.1-base at full size with random weights."""

from __future__ import annotations

from typing import Any

from benchmarks.bare import picture, requests, stable_diffusion
from sow import build, compose
from sow.method.denoiser import Model
from sow.models.backbone import make_canvas

__all__ = ["made_limits", "picture", "requests", "sampler", "stable_diffusion"]

WORDS = [
    "calibration=paper",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
    "tracker=none",
    "cache.memory_mb=0",
]


def sampler(model: str, device: str, dtype: str) -> Any:
    """SOW with the paper's numbers and a fixed plan, nothing cached, on `model`:
    people, tiny or sd21_base."""
    if model != "sd21_base":
        return build(compose([*WORDS, f"model={model}", f"model.device={device}", f"model.dtype={dtype}"]))
    made = build(compose([*WORDS, "model=tiny", "calibration=paper"]))
    canvas = make_canvas(512, 512, 8, made_limits())
    own = Model.of(stable_diffusion(device, dtype), made.model.schedule.steps)
    return made.variant(model=own, canvas=canvas)


def made_limits() -> list[int]:
    """The condition's limits of the paper's calibration."""
    return list(compose(["model=sd21_base", "metrics=none"]).calibration.condition_size)
