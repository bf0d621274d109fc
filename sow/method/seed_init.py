"""Seed initialisation (Sec. IV-B): visual conditions pasted on a predefined background, ready to be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.config.bounds import need_one_of
from sow.errors import UserError
from sow.types import Box, Canvas, Plan, Request, VisualCondition

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seed:
    """One visual condition in its place.

    `image` (3, h, w) float32 in [-1, 1], background-coloured outside the mask; `latent_mask` (h/f, w/f) bool;
    `top`, `left` its place in the latents; `sample` which request of the batch it belongs to, `condition` which of that
    request's conditions it is; `box` in pixels.
    """

    image: Tensor
    latent_mask: Tensor
    top: int
    left: int
    sample: int
    condition: int
    box: Box


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [-1, 1]; float32 arithmetic throughout, as diffusers' image processor does it."""
    import numpy as np
    import torch

    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return 2.0 * torch.from_numpy(pixels.transpose(2, 0, 1).copy()) - 1.0


def pixel_mask(condition: VisualCondition, box: Box, how: str) -> Image.Image:
    """The condition's mask at the size of its box, mode "L", 0 or 255.

    "threshold": resized, then cut at one half. "dither": as COW's code does it: white is what is dropped, PIL's default
    resampling, PIL's dithering to one bit, then inverted.
    """
    from PIL import Image, ImageOps

    size = (box.w, box.h)
    if condition.mask is None:
        return Image.new("L", size, 255)
    mask = condition.mask.convert("L")
    if how == "dither":
        return ImageOps.invert(ImageOps.invert(mask).resize(size).convert("1").convert("L"))
    return mask.resize(size).point(lambda value: 255 if value >= 128 else 0)


@dataclass(frozen=True)
class Background:
    """Conditions on a background that is encoded and inverted with them.

    `color`  [r, g, b] in 0..255, or "noise": Gaussian pixels of mean 0 and standard deviation 1 on [-1, 1], clipped
    `start`  "invert": x_{t2} of the first cycle by inversion; "inject": invert to x_{t1}, then inject noise (A6)
    `mask`   "threshold" or "dither", how a mask becomes pixels (COW's code dithers)
    `snap`   whether boxes snap to the VAE's grid; COW's code pastes at any pixel and rounds only the latents' place down
    """

    color: list[int] | str
    start: str
    mask: str
    snap: bool
    _target_: str = "sow.method.seed_init.Background"

    def __post_init__(self) -> None:
        bad_color = self.color != "noise" and (
            isinstance(self.color, str) or len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color)
        )
        if bad_color:
            raise UserError(f"color is [r, g, b] of 0..255 or noise, got {self.color!r} (seed_init.color)")
        need_one_of(self, "seed_init", start=("invert", "inject"), mask=("threshold", "dither"))

    def background(self, canvas: Canvas, generator: torch.Generator) -> Image.Image:
        """The canvas before anything is pasted on it."""
        from PIL import Image

        if self.color == "noise":
            import torch

            from sow.method import noise

            pixels = noise.randn((1, 3, canvas.height, canvas.width), generator, "cpu", torch.float32)[0]
            pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            return Image.fromarray(pixels.permute(1, 2, 0).numpy())
        assert not isinstance(self.color, str)  # noise is the only word there is
        return Image.new("RGB", (canvas.width, canvas.height), tuple(self.color))


@dataclass(frozen=True)
class PureNoise:
    """No seed initialisation (Fig. 6): x_K ~ N(0, 1), plain denoising to x_{t2}, then the cycles."""

    mask: str
    snap: bool
    _target_: str = "sow.method.seed_init.PureNoise"

    start: str = "noise"

    def background(self, canvas: Canvas, generator: torch.Generator) -> Image.Image:
        """Gray, which only the pixels of a condition outside its mask ever see."""
        from PIL import Image

        return Image.new("RGB", (canvas.width, canvas.height), (128, 128, 128))


def place(
    seed_init: Background | PureNoise,
    request: Request,
    plan: Plan,
    canvas: Canvas,
    sample: int,
    generator: torch.Generator,
) -> tuple[Tensor, list[Seed]]:
    """Algorithm 1, line 3: the canvas X_0 (3, H, W) in [-1, 1] and each condition alone, in its box.

    Pixels of a condition outside its mask take the background's colour. Raises UserError for a box off the canvas or
    off the VAE's grid, and for a mask that keeps no latent.
    """
    import numpy as np
    import torch
    from PIL import Image

    base = seed_init.background(canvas, generator)
    picture = base.copy()
    seeds = []
    if len(plan.boxes) != len(request.conditions):
        raise UserError(
            f"the plan has {len(plan.boxes)} boxes for {len(request.conditions)} visual conditions (planner.boxes)"
        )
    for number, (condition, planned) in enumerate(zip(request.conditions, plan.boxes, strict=True)):
        box = planned.snapped(canvas.factor) if seed_init.snap else planned
        if not box.inside(canvas.width, canvas.height):
            raise UserError(
                f"box {box.as_list()} reaches outside the {canvas.width} x {canvas.height} canvas: move or shrink it "
                "(planner.boxes)"
            )
        if box.w % canvas.factor or box.h % canvas.factor:
            raise UserError(
                f"box {box.as_list()} needs sides that are multiples of {canvas.factor} (planner.boxes)"
            )
        mask = pixel_mask(condition, box, seed_init.mask)
        crop = condition.image.convert("RGB").resize((box.w, box.h))
        behind = base.crop((box.x, box.y, box.right, box.bottom))
        crop = Image.composite(crop, behind, mask)
        picture.paste(crop, (box.x, box.y))
        # Nearest resize of the pixel mask: the latent at (i, j) reads the pixel at (i f, j f).
        latent = torch.from_numpy(np.asarray(mask)[:: canvas.factor, :: canvas.factor] >= 128)
        if not latent.any():
            raise UserError(
                f"the mask of {condition.name} keeps no latent of {latent.shape[1]} x {latent.shape[0]}: give a larger "
                "mask or box (condition.mask)"
            )
        seeds.append(
            Seed(to_tensor(crop), latent, box.y // canvas.factor, box.x // canvas.factor, sample, number, box)
        )
    return to_tensor(picture), seeds


def paste_latents(seeds: Sequence[Seed], values: Sequence[Tensor], canvas: Tensor) -> Tensor:
    """Each seed's latents (C, h, w), cut to its mask, laid on zeros of `canvas`'s shape (B, C, H, W)."""
    import torch

    out = torch.zeros_like(canvas)
    for seed, value in zip(seeds, values, strict=True):
        height, width = seed.latent_mask.shape
        window = out[seed.sample, :, seed.top : seed.top + height, seed.left : seed.left + width]
        mask = seed.latent_mask.to(canvas.device)
        window.copy_(torch.where(mask, value, window))
    return out


def canvas_mask(seeds: Sequence[Seed], batch: int, latent_size: tuple[int, int]) -> Tensor:
    """M: (B, 1, H, W) bool, True where a condition's latent mask lies."""
    import torch

    out = torch.zeros((batch, 1, *latent_size), dtype=torch.bool)
    for seed in seeds:
        height, width = seed.latent_mask.shape
        out[seed.sample, 0, seed.top : seed.top + height, seed.left : seed.left + width] |= seed.latent_mask
    return out
