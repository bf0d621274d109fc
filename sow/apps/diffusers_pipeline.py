"""`SOWPipeline`: the method as a pipeline of diffusers, for people who live there; no Hydra, no server.

SOWPipeline.from_pretrained(MODEL) takes any model in Stable Diffusion's format; `save_custom_pipeline(DIR)`
writes what DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=DIR, trust_remote_code=True) loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image

from sow.data.conditions import photograph
from sow.errors import UserError
from sow.method import paper
from sow.method.guidance import ClassifierFree
from sow.models import checkpoint
from sow.models.backbone import Backbone
from sow.pipeline.pipeline import Pipeline
from sow.planner.heuristic import Heuristic
from sow.planner.intensify import Planned as PlannedPrompt
from sow.planner.position import Planned as PlannedPosition
from sow.types import Box, Request, Step

FOLDER_FILE = '''"""Selective One-Way Diffusion for diffusers' `custom_pipeline`.

It needs the package: pip install the repository that this file came from.
"""

from sow.apps.diffusers_pipeline import SOWPipeline

__all__ = ["SOWPipeline"]
'''


def save_custom_pipeline(folder: str | Path) -> Path:
    """Write `folder`/pipeline.py for `custom_pipeline=folder`; returns the file."""
    file = Path(folder) / "pipeline.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(FOLDER_FILE)
    return file


class SOWPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Text-vision-to-image on a frozen Stable-Diffusion-format model (arXiv 2411.19182), the paper's numbers.

    The same pixels as `python run.py model=local model.path=MODEL condition.image=... seed=...`, and after
    `load_lora_weights(FILE)` those of `model.lora=[FILE]` but for rounding.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["safety_checker", "feature_extractor", "image_encoder"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
            safety_checker=safety_checker, feature_extractor=feature_extractor, image_encoder=image_encoder,
        )  # fmt: skip
        self.register_to_config(requires_safety_checker=requires_safety_checker)

    def __call__(
        self,
        prompt: str,
        image: Image.Image | Sequence[Image.Image],
        mask_image: Image.Image | Sequence[Image.Image] | None = None,
        *,
        box: Sequence[float] | Sequence[Sequence[float]] | None = None,
        crop: str = "none",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = paper.STEPS,
        guidance_scale: float = 7.5,
        negative_prompt: str = paper.NEGATIVE,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        components: Mapping[str, Any] | None = None,
        callback_on_step_end: Callable[..., Mapping[str, Any] | None] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """An image that keeps the condition's pixels and follows the prompt.

        `image`, `mask_image`  one visual condition or several; white pixels of a mask belong to it; without a
            mask the alpha channel decides, else all of the picture does
        `box`  [x, y, width, height] of each condition in canvas pixels; None = by the prompt's words, else
            the upper middle
        `crop`  "mask" crops a picture to a square around its mask first
        `generator`  its initial_seed() is the first image's seed, the next images take the next ones; None =
            a random seed
        `components`  replaces parts of the method by name, as in {"gate": AlwaysOpen(...)}: sow.method.paper
        `callback_on_step_end(pipeline, step, timestep, {"latents": ...})`  sees each denoising step; latents
            are (1, C, h, w) and cannot be changed
        `output_type`  "pil", "np" (N, H, W, 3) in [0, 1], "pt" (N, 3, H, W) in [0, 1], or "latent"

        Raises UserError, naming the argument, for what cannot be used.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type is pil, np, pt or latent, got {output_type!r} (output_type)")
        if not isinstance(prompt, str):
            raise UserError(f"one prompt a call, got {prompt!r} (prompt)")
        if num_images_per_prompt < 1:
            raise UserError(f"need at least one image, got {num_images_per_prompt} (num_images_per_prompt)")
        made = self._pipeline(
            num_inference_steps, guidance_scale, negative_prompt, width, height, components or {}
        )
        images = [image] if isinstance(image, Image.Image) else list(image)
        masks = self._masks(mask_image, len(images))
        boxes = self._boxes(box, len(images))
        conditions = tuple(
            photograph(i, "none" if m is None else m, "white", crop, b)
            for i, m, b in zip(images, masks, boxes, strict=True)
        )
        # Without a generator from torch's own, as diffusers' pipelines do: torch.manual_seed repeats it.
        seed = int(torch.randint(2**31, (1,))) if generator is None else generator.initial_seed()
        requests = [
            Request(conditions, prompt, seed=seed + i, id=str(i)) for i in range(num_images_per_prompt)
        ]
        latents, pictures = [], []
        bar = self.progress_bar(total=made.denoising_steps() * num_images_per_prompt)
        for request in requests:
            seen = self._watch(bar, callback_on_step_end)
            (sample,) = made.generate([request], on_step=seen)
            latents.append(sample.latents)
            pictures.append(sample.image)
        bar.close()
        out = self._as(output_type, latents, pictures)
        return ImagePipelineOutput(images=out) if return_dict else (out,)

    def _pipeline(
        self,
        steps: int,
        scale: float,
        negative: str,
        width: int | None,
        height: int | None,
        changes: Mapping[str, Any],
    ) -> Pipeline:
        scheduler = {"_class_name": type(self.scheduler).__name__, **self.scheduler.config}
        checkpoint.check_scheduler(scheduler, "scheduler")
        dtype = str(self.unet.dtype).removeprefix("torch.")
        device = str(self._execution_device)
        backbone = Backbone(self.vae, self.text_encoder, self.tokenizer, self.unet, scheduler, device, dtype)
        known = paper.components()
        if wrong := sorted(changes.keys() - known.keys()):
            raise UserError(f"{wrong[0]!r} is no component: choose among {', '.join(known)} (components)")
        guidance = ClassifierFree(scale=scale, negative_prompt=negative)
        method = paper.one_way(backbone, steps, width, height, **{"guidance": guidance, **changes})
        planner = Heuristic(**paper.PLANNER)
        return Pipeline(method, planner, PlannedPosition(), PlannedPrompt(), batch_size=1)

    def _masks(self, given: Any, count: int) -> list[Image.Image | None]:
        masks = [given] * (count if given is None else 1) if not isinstance(given, Sequence) else list(given)
        if len(masks) != count:
            raise UserError(f"{len(masks)} masks for {count} images: give one an image (mask_image)")
        return masks

    def _boxes(self, given: Any, count: int) -> list[Box | None]:
        if given is None:
            return [None] * count
        rows = [given] if all(isinstance(v, int | float) for v in given) else list(given)
        if len(rows) != count:
            raise UserError(f"{len(rows)} boxes for {count} images: give one an image (box)")
        return [Box.of(row) for row in rows]

    def _watch(self, bar: Any, callback: Callable[..., Any] | None) -> Callable[[Step], None]:
        count = 0

        def seen(step: Step) -> None:
            nonlocal count
            if step.event != "denoise":
                return
            bar.update()
            if callback is not None:
                given = {"latents": step.latents.clone()}
                back = callback(self, count, step.context.timestep, given)
                if back and not torch.equal(back.get("latents", step.latents), step.latents):
                    raise UserError(
                        "latents cannot be changed: later steps go on from others (callback_on_step_end)"
                    )
            count += 1

        return seen

    def _as(self, kind: str, latents: list[torch.Tensor], pictures: list[Image.Image]) -> Any:
        if kind == "pil":
            return pictures
        if kind == "latent":
            return torch.cat(latents)
        pixels = torch.stack([torch.from_numpy(np.asarray(p, np.float32) / 255) for p in pictures])
        return pixels.numpy() if kind == "np" else pixels.permute(0, 3, 1, 2)
