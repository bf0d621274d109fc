"""The trained parts as one Stable Diffusion folder: fp16 safetensors, replaced as a whole, with checksums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from sow.people.training.denoiser import flow_schedule, noise_schedule
from sow.store.checksums import LIST, write_checksums
from sow.store.files import atomic_folder

SHARD = "15MB"  # of one weight file, at most


def export_weights(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    predicts: str = "epsilon",
) -> Path:
    """Write the pipeline, whose unet predicts "epsilon" or a flow's "velocity", to `folder` in float16 as Stable
    Diffusion's layout, beside it first and then renamed.

    `StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)` reads it. Files of
    the old folder that no export writes (the judge's weights, the model card) move along.
    """
    with atomic_folder(folder) as fresh:
        parts = {"vae": vae, "text_encoder": text_encoder, "unet": unet}
        for name, model in parts.items():
            kinds = {p: p.dtype for p in model.parameters()}
            if any(kind != torch.float32 for kind in kinds.values()):
                raise ValueError(f"{name} must be float32 before the export halves it")
            copy = (
                type(model).from_config(model.config) if name != "text_encoder" else type(model)(model.config)
            )
            copy.load_state_dict(model.state_dict())
            copy.half().save_pretrained(fresh / name, max_shard_size=SHARD, safe_serialization=True)
            forget_origin(fresh / name / "config.json")
        scheduler = schedule_of(predicts)
        scheduler.save_pretrained(fresh / "scheduler")
        tokenizer_files = Path(tokenizer.name_or_path)
        shutil.copytree(tokenizer_files, fresh / "tokenizer")
        _write_index(fresh, type(scheduler).__name__)
        carry_over(folder, fresh)
        write_checksums(fresh)
    return folder


def schedule_of(predicts: str) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler of what the noise predictor was trained to predict."""
    return flow_schedule() if predicts == "velocity" else noise_schedule()


def forget_origin(config: Path) -> None:
    """Take out of a config.json where the trainer kept its state, which is nobody's business."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")


def _write_index(folder: Path, scheduler: str) -> None:
    classes = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", scheduler],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.36.0",
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index | classes, indent=2) + "\n")


def carry_over(old: Path, fresh: Path) -> None:
    """Copy what the new folder lacks, but for the list of checksums."""
    if old.exists():
        for item in old.iterdir():
            if not (fresh / item.name).exists() and item.name != LIST:
                (shutil.copytree if item.is_dir() else shutil.copy2)(item, fresh / item.name)


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler | FlowMatchEulerDiscreteScheduler | None = None,
) -> StableDiffusionPipeline:
    """The parts as a pipeline in memory; the schedule is the noise predictor's where none is given."""
    scheduler = scheduler or noise_schedule()
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(folder: Path, unet: Path | None = None) -> StableDiffusionPipeline:
    """The exported pipeline in float32 on the CPU, without a progress bar; with the unet and scheduler of another folder
    where one is given."""
    other: dict[str, Any] = {}
    if unet is not None:
        config = DDIMScheduler.load_config(unet, subfolder="scheduler")
        flow = config["_class_name"] == FlowMatchEulerDiscreteScheduler.__name__
        cls = FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler
        weights = UNet2DConditionModel.from_pretrained(unet, subfolder="unet", dtype=torch.float32)
        other = {"unet": weights, "scheduler": cls.from_config(config)}
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, dtype=torch.float32, **other
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
