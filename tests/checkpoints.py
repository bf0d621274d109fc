"""Small checkpoints on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sow.models.checkpoint import SCHEDULER_FILE
from sow.models.tiny import SCHEDULER, Tiny


def save_tiny(place: Path, **scheduler: Any) -> Path:
    """The tiny model as a folder in Stable Diffusion's format; `scheduler` changes its scheduler's
    configuration."""
    tiny = Tiny("float32", "cpu", [128, 128], [180, 256], 0).load()
    for part in ("vae", "text_encoder", "tokenizer", "unet"):
        getattr(tiny, part).save_pretrained(place / part)
    (place / "scheduler").mkdir()
    config = {**SCHEDULER, "_class_name": "DDIMScheduler", **scheduler}
    (place / SCHEDULER_FILE).write_text(json.dumps(config))
    return place


def save_tiny_pipeline(place: Path) -> Path:
    """The same with the index that diffusers' pipelines are loaded by."""
    save_tiny(place)
    parts = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "DDIMScheduler"}
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {name: ["diffusers", kind] for name, kind in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [None, None]}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "feature_extractor": [None, None]}
    (place / "model_index.json").write_text(json.dumps(index))
    return place


def without_weights(place: Path) -> Path:
    """A folder in the format of a checkpoint, as far as a configuration looks."""
    for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        (place / part).mkdir(parents=True)
        name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
        (place / part / name).write_text("{}")
    (place / SCHEDULER_FILE).write_text(json.dumps(SCHEDULER))
    return place
