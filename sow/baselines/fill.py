"""Learned inpainting through diffusers' own pipelines: FLUX.1 Fill and Kontext, Qwen-Image-Edit, and
ControlNet for Stable Diffusion.

Each gets the canvas with the conditions pasted, a mask that is white where it is to paint, the prompt and
the request's generator. FLUX.1 Kontext gets the condition alone as its reference too; ControlNet's map is the
canvas with -1 where it is to paint, as its authors train it. Their weights are their own: of the run's model
only canvas and encoder are used, the encoder to give the finished picture latents.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops
from torch import Tensor

from sow.baselines.config import Filled, local_folder
from sow.baselines.inpaint import held_pixels
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.errors import UserError
from sow.method.seed_init import to_tensor
from sow.models.backbone import Backbone
from sow.models.hub import need
from sow.models.loading import load_whole
from sow.store.checksums import check_files
from sow.types import Sample, Step, StepContext

log = logging.getLogger(__name__)

# Classes of a model_index.json whose parts each pipeline takes.
INDEXES = {
    "FluxFillPipeline": ("FluxFillPipeline",),
    "FluxKontextInpaintPipeline": ("FluxKontextInpaintPipeline", "FluxKontextPipeline"),
    "QwenImageEditInpaintPipeline": ("QwenImageEditInpaintPipeline", "QwenImageEditPipeline"),
    "StableDiffusionControlNetInpaintPipeline": (
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionPipeline",
    ),
}
NETWORKS = ("transformer", "unet", "vae", "text_encoder", "text_encoder_2")
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def load(options: Filled, backbone: Backbone) -> Any:
    """The pipeline on the model's device and in its precision; raises UserError, after the licence was said,
    where its files cannot be had, are another pipeline's, or are not whole."""
    import diffusers

    place = local_folder(options.path) or options.path
    if place.startswith(("/", ".", "~")) and not Path(place).is_dir():
        raise UserError(f"no such folder: {place} (method.path)")
    hub = {} if local_folder(options.path) else {"revision": options.revision}
    if hub:
        gate = "; its page must be accepted once, and a token given to the hub" if options.gated else ""
        log.warning("%s has the licence %s%s (method.path)", options.path, options.licence, gate)
        need(options.path, "model_index.json", "method.path")
    cls = getattr(diffusers, options.pipeline)
    try:
        check_files(Path(place), "method.path")
        index = cls.load_config(place, **hub)
        if index.get("_class_name") not in INDEXES[options.pipeline]:
            raise UserError(
                f"{place}/model_index.json has _class_name={index.get('_class_name')}: {options.pipeline} "
                f"takes the parts of {' or '.join(INDEXES[options.pipeline])} (method.path, method.pipeline)"
            )
        parts = _networks(index, str(place), backbone.dtype, hub)
        if options.controlnet is not None:
            source = local_folder(options.controlnet) or options.controlnet
            control = load_whole(
                diffusers.ControlNetModel, str(source), "method.controlnet", dtype=backbone.dtype
            )
            parts |= {"controlnet": control, **UNCHECKED}
        made = cls.from_pretrained(place, **parts, **hub)
    except UserError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        cure = "; the hub gives it to those who accepted its page and are logged in" if options.gated else ""
        raise UserError(
            f"cannot load {options.pipeline} from {options.path}: {words}; download it or give a folder "
            f"(method.path){cure}"
        ) from error
    made.set_progress_bar_config(disable=True)
    for name in (*NETWORKS, "controlnet"):
        if (network := getattr(made, name, None)) is not None:
            network.eval().requires_grad_(False)
    if options.offload and backbone.device.type != "cpu":
        made.enable_model_cpu_offload(device=backbone.device)
        return made
    return made.to(backbone.device)


def _networks(
    index: Mapping[str, Any], place: str, dtype: torch.dtype, hub: Mapping[str, Any]
) -> dict[str, Any]:
    """The networks that an index names, each whole, in the classes of diffusers and transformers."""
    import diffusers
    import transformers

    classes = {}
    for part in NETWORKS:
        library, name = index.get(part) or (None, None)
        module = {"diffusers": diffusers, "transformers": transformers}.get(str(library))
        if name is not None and not hasattr(module, name):
            raise UserError(
                f"{place}/model_index.json takes {part} from {library}.{name}: a class of diffusers or "
                "transformers is understood (method.path)"
            )
        if name is not None:
            classes[part] = getattr(module, name)
    options = {"dtype": dtype, "use_safetensors": True, **hub}
    return {p: load_whole(cls, place, "method.path", subfolder=p, **options) for p, cls in classes.items()}


@dataclass(frozen=True, eq=False)
class FillSampler(BaselineSampler):
    """One call of the pipeline for each request; `painted` keeps its pictures until they are finished."""

    pipe: Any = None
    painted: dict[int, Image.Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Any model will do: its network is not called."""

    @classmethod
    def loaded(cls, options: Filled, backbone: Backbone) -> tuple[Backbone, dict[str, Any]]:
        return backbone, {"pipe": load(options, backbone)}

    @property
    def needs_latents(self) -> bool:
        return False

    def denoising_steps(self, sizes: int = 1) -> int:
        return 1  # what the pipeline does inside is one step here

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        start = self.encode(batch.pictures, batch.generators)
        yield Step(start, "start", StepContext("sample", None, self.schedule.steps))
        pictures = []
        with self._counted():
            for i, request in enumerate(batch.requests):
                self.painted[id(request)] = self.paint(batch, i)
                pictures.append(to_tensor(self.painted[id(request)]))
        x = self.encode(torch.stack(pictures), batch.generators)
        yield Step(x, "denoise", StepContext("sample", None, 0, self.schedule.timesteps[0]), {}, x)

    def paint(self, batch: Prepared, i: int) -> Image.Image:
        """What the pipeline makes of request i, at the canvas's size."""
        size = self.canvas.width, self.canvas.height
        out = self.pipe(**self.words(batch, i), output_type="pil").images[0]
        return out if out.size == size else out.resize(size, Image.Resampling.LANCZOS)

    def words(self, batch: Prepared, i: int) -> dict[str, Any]:
        """The pipeline's arguments for request i."""
        request, plan, o = batch.requests[i], batch.plans[i], self.options
        held = held_pixels(self, request, plan)
        canvas = as_picture(batch.pictures[i])
        negative = self.guidance.in_preservation().prompts("")[0]
        steps = {"num_inference_steps": self.schedule.steps, "strength": o.strength}
        common = {
            "prompt": self.prompts([request], [plan])[0],
            "image": canvas,
            "mask_image": ImageChops.invert(held.point(lambda v: 255 if v else 0)),
            "height": canvas.height,
            "width": canvas.width,
            "generator": batch.generators[i],
            **steps,
        }
        if o.pipeline == "FluxFillPipeline":
            return common | {"guidance_scale": o.guidance}
        if o.pipeline == "FluxKontextInpaintPipeline":
            own = request.conditions[0].on_gray().resize(canvas.size)
            # At the canvas's own size: another would move the boxes off the patches.
            return common | {"guidance_scale": o.guidance, "image_reference": own, "_auto_resize": False}
        if o.pipeline == "QwenImageEditInpaintPipeline":
            return common | {"true_cfg_scale": o.guidance, "negative_prompt": negative}
        return common | {
            "guidance_scale": o.guidance,
            "negative_prompt": negative,
            "eta": o.eta,
            "control_image": control_map(canvas, held),
            "controlnet_conditioning_scale": o.controlnet_scale,
        }

    def _counted(self) -> Any:
        """Count the rows that the pipeline's network sees, as those of the run's model are."""
        network = getattr(self.pipe, "transformer", None) or self.pipe.unet

        def count(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen = inputs[0] if inputs else named["hidden_states"]
            self.backbone.evaluations[self.canvas.latent_size] += len(seen)

        return _Hook(network.register_forward_pre_hook(count, with_kwargs=True))

    def finished(self, sample: Sample) -> Sample:
        """The pipeline's own picture, not what the run's decoder makes of its latents."""
        return replace(sample, image=self.painted.pop(id(sample.request), sample.image))


@dataclass(frozen=True)
class _Hook:
    """A hook for the length of a block."""

    handle: Any

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def as_picture(pixels: Tensor) -> Image.Image:
    """A picture of (3, H, W) in [-1, 1]."""
    levels = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def control_map(canvas: Image.Image, held: Image.Image) -> Tensor:
    """The inpainting ControlNet's map (1, 3, H, W): the canvas in [0, 1], -1 where it is to paint."""
    pixels = (to_tensor(canvas) + 1) / 2
    return torch.where(to_tensor(held)[:1] > 0, pixels, torch.tensor(-1.0))[None]
