"""Runs of earlier versions: the names that their components have now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The module of a component as it was written into manifests before, and as it is now.
MOVED = {
    "experiments.benchmark": "experiments.benchmark.benchmark",
    "experiments.gallery": "experiments.gallery.gallery",
    "experiments.judge_check": "experiments.training.judge_check",
    "experiments.preference": "experiments.preference.preference",
    "experiments.preference_tally": "experiments.preference.tally",
    "experiments.train_controlnet": "experiments.training.train_controlnet",
    "experiments.train_judge": "experiments.training.train_judge",
    "experiments.train_people": "experiments.training.train_people",
    "sow.conditions": "sow.data.conditions",
    "sow.cycle": "sow.method.cycle",
    "sow.guidance": "sow.method.guidance",
    "sow.inversion": "sow.method.inversion",
    "sow.methods": "sow.pipeline.factory",
    "sow.methods.baselines": "sow.baselines",
    "sow.preservation": "sow.method.preservation",
    "sow.pretrained": "sow.models.pretrained",
    "sow.seed_init": "sow.method.seed_init",
    "sow.sweeping": "sow.config.sweeping",
    "sow.tiny": "sow.models.tiny",
    "sow.tracking": "sow.runs.tracking",
}


def current_target(target: str) -> str:
    """The name that the component `target` has in this version."""
    module, _, name = target.rpartition(".")
    return f"{MOVED.get(module, module)}.{name}"


def current(node: Any) -> Any:
    """A configuration out of a manifest, with the names that its components have now."""
    if isinstance(node, Mapping):
        renamed = {k: current(v) for k, v in node.items()}
        if isinstance(renamed.get("_target_"), str):
            renamed["_target_"] = current_target(renamed["_target_"])
        return renamed
    return [current(v) for v in node] if isinstance(node, (list, tuple)) else node
