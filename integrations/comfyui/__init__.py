"""Selective One-Way Diffusion as nodes of ComfyUI (V3 schema): a loader, a sampler around `SOWPipeline`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image

from sow import SOWPipeline

Pipeline = io.Custom("SOW_PIPELINE")
SIDES = {"default": 0, "min": 0, "max": 8192}  # pixels of the canvas


class LoadSOW(io.ComfyNode):
    """A folder, or a hub's id, in Stable Diffusion's format as a SOWPipeline."""

    @classmethod
    def define_schema(cls) -> Any:
        """Where the model lies, and what it runs on."""
        return io.Schema(
            node_id="SOWLoad",
            display_name="Load SOW model",
            category="sow",
            description="A Stable Diffusion 1.x or 2.x model in diffusers' format, for One-Way Diffusion.",
            inputs=[
                io.String.Input("model", default="", tooltip="folder of the model, or its id on the hub"),
                io.Combo.Input("device", options=["auto", "cuda", "mps", "cpu"], default="auto"),
                io.Combo.Input("dtype", options=["float16", "bfloat16", "float32"], default="float16"),
            ],
            outputs=[Pipeline.Output(display_name="pipeline")],
        )

    @classmethod
    def execute(cls, model: str, device: str, dtype: str) -> Any:
        """Load it; a CPU computes in float32 whatever `dtype` says."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        wanted = torch.float32 if device == "cpu" else getattr(torch, dtype)
        pipeline = SOWPipeline.from_pretrained(model, torch_dtype=wanted).to(device)
        pipeline.set_progress_bar_config(disable=True)
        return io.NodeOutput(pipeline)


class OneWayDiffusion(io.ComfyNode):
    """One image for each picture of the batch, which it keeps."""

    @classmethod
    def define_schema(cls) -> Any:
        """The visual condition, the prompt, the box, and the sampler's numbers."""
        return io.Schema(
            node_id="SOWGenerate",
            display_name="Selective One-Way Diffusion",
            category="sow",
            description="Images that keep the picture's masked pixels and follow the prompt.",
            inputs=[
                Pipeline.Input("pipeline"),
                io.Image.Input("image", tooltip="the picture to keep"),
                io.String.Input("prompt", multiline=True, default="a person in a forest"),
                io.String.Input("negative_prompt", multiline=True, default=""),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=True),
                io.Int.Input("steps", default=10, min=1, max=1000),
                io.Float.Input("guidance", default=7.5, min=1.0, max=100.0, step=0.1),
                io.Int.Input("x", **SIDES, tooltip="upper left corner of the box on the canvas"),
                io.Int.Input("y", **SIDES),
                io.Int.Input("width", **SIDES, tooltip="0 = place and size by the prompt's words"),
                io.Int.Input("height", **SIDES),
                io.Mask.Input(
                    "mask", optional=True, tooltip="1 where the picture is kept; without: all of it"
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        image: torch.Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        x: int,
        y: int,
        width: int,
        height: int,
        mask: torch.Tensor | None = None,
    ) -> Any:
        """`image` (B, H, W, C) in [0, 1], `mask` (B or 1, H, W) in [0, 1]; returns (B, h, w, 3) in [0, 1],
        picture i with the seed `seed` + i. Raises UserError, in one line, for what cannot be used."""
        made = []
        for i, picture in enumerate(image):
            kept = None if mask is None else _picture(mask[min(i, len(mask) - 1)])
            out = pipeline(
                prompt,
                _picture(picture),
                mask_image=kept,
                box=[x, y, width, height] if width and height else None,
                negative_prompt=negative_prompt,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed + i),
                output_type="np",
            )
            made.append(torch.from_numpy(out.images))
        return io.NodeOutput(torch.cat(made))


def _picture(values: torch.Tensor) -> Image.Image:
    """PIL image of (H, W, C) or (H, W) in [0, 1]."""
    return Image.fromarray((values.cpu().float().numpy() * 255).round().clip(0, 255).astype(np.uint8))


class SOWExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[Any]]:
        """Both nodes."""
        return [LoadSOW, OneWayDiffusion]


async def comfy_entrypoint() -> SOWExtension:
    """ComfyUI's way in."""
    return SOWExtension()
