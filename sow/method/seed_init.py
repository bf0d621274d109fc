"""Seed initialisation (Sec. IV-B): visual conditions pasted on a predefined background, ready to be
encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from sow.errors import UserError
from sow.types import Bound, Box, Canvas, Plan, Request, VisualCondition, component

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PlacedCondition:
    """One visual condition in its place.

    `image` (3, h, w) float32 in [-1, 1], background-coloured outside the mask; `latent_mask` (h/f, w/f) bool;
    `top`, `left` its place in the latents; `sample` which request of the batch it belongs to, `condition`
    which of that request's conditions it is; `box` in pixels.
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


def pixels_in(condition: VisualCondition, box: Box) -> Image.Image:
    """The condition's picture at the size of its box, RGB."""
    return condition.image.convert("RGB").resize((box.w, box.h))


def pixel_mask(condition: VisualCondition, box: Box, how: str) -> Image.Image:
    """The condition's mask at the size of its box, mode "L", 0 or 255.

    "threshold": resized, then cut at one half. "dither": as COW's code does it: white is what is dropped,
    PIL's default resampling, PIL's dithering to one bit, then inverted.
    """
    from PIL import Image, ImageOps

    size = (box.w, box.h)
    if condition.mask is None:
        return Image.new("L", size, 255)
    mask = condition.mask.convert("L")
    if how == "dither":
        return ImageOps.invert(ImageOps.invert(mask).resize(size).convert("1").convert("L"))
    return mask.resize(size).point(lambda value: 255 if value >= 128 else 0)


class SeedInit(Protocol):
    """How the latents of the first cycle come about (Fig. 6)."""

    @property
    def start(self) -> str:
        """ "invert", "inject" or "noise"."""
        ...

    @property
    def mask(self) -> str:
        """ "threshold" or "dither"."""
        ...

    @property
    def snap(self) -> bool:
        """Whether boxes snap to the VAE's grid."""
        ...

    @property
    def coverage(self) -> float | None:
        """The share of a latent's pixels that a mask must keep; None = its first pixel decides."""
        ...

    def background(self, canvas: Canvas, generator: torch.Generator) -> Image.Image:
        """The canvas before anything is pasted on it."""
        ...


@component("seed_init")
class Background:
    """Conditions on a background that is encoded and inverted with them.

    `color`  [r, g, b] in 0..255, or "noise": Gaussian pixels of mean 0 and standard deviation 1 on [-1, 1],
             clipped
    `start`  "invert": x_{t2} of the first cycle by inversion; "inject": invert to x_{t1}, then inject noise
             (A6)
    `mask`   "threshold" or "dither", how a mask becomes pixels (COW's code dithers)
    `snap`   whether boxes snap to the VAE's grid; COW's code pastes at any pixel and rounds only the latents'
             place down
    `coverage` which latents at a mask's edge are the condition's: those of which it keeps at least this share
             of the pixels, in (0, 1]; None = those of which it keeps the first pixel, top left (A25)
    """

    color: list[int] | str
    start: Literal["invert", "inject"]
    mask: Literal["threshold", "dither"]
    snap: bool
    coverage: Annotated[float, Bound(gt=0, le=1)] | None

    def __post_init__(self) -> None:
        bad_color = self.color != "noise" and (
            isinstance(self.color, str) or len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color)
        )
        if bad_color:
            raise UserError(f"color is [r, g, b] of 0..255 or noise, got {self.color!r} (seed_init.color)")

    def background(self, canvas: Canvas, generator: torch.Generator) -> Image.Image:
        from PIL import Image

        if self.color == "noise":
            import torch

            from sow.method import noise

            pixels = noise.randn((1, 3, canvas.height, canvas.width), generator, "cpu", torch.float32)[0]
            pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            return Image.fromarray(pixels.permute(1, 2, 0).numpy())
        assert not isinstance(self.color, str)  # noise is the only word there is
        return Image.new("RGB", (canvas.width, canvas.height), tuple(self.color))


@component("seed_init")
class PureNoise:
    """No seed initialisation (Fig. 6): x_K ~ N(0, 1), plain denoising to x_{t2}, then the cycles."""

    mask: Literal["threshold", "dither"]
    snap: bool
    coverage: Annotated[float, Bound(gt=0, le=1)] | None
    start: Literal["noise"] = "noise"

    def background(self, canvas: Canvas, generator: torch.Generator) -> Image.Image:
        """Gray, which only the pixels of a condition outside its mask ever see."""
        from PIL import Image

        return Image.new("RGB", (canvas.width, canvas.height), (128, 128, 128))


def place(
    seed_init: SeedInit,
    request: Request,
    plan: Plan,
    canvas: Canvas,
    sample: int,
    generator: torch.Generator,
) -> tuple[Tensor, list[PlacedCondition]]:
    """Algorithm 1, line 3: the canvas X_0 (3, H, W) in [-1, 1] and each condition alone, in its box.

    Pixels of a condition outside its mask take the background's colour; where conditions overlap, later
    ones lie on top. Raises UserError for a box off the canvas or off the VAE's grid, for a mask that keeps
    no latent, and for a condition that others hide.
    """
    import numpy as np
    import torch
    from PIL import Image

    base = seed_init.background(canvas, generator)
    picture = base.copy()
    placed = []
    if len(plan.boxes) != len(request.conditions):
        raise UserError(
            f"the plan has {len(plan.boxes)} boxes for {len(request.conditions)} visual conditions "
            "(planner.boxes)"
        )
    for number, (condition, planned) in enumerate(zip(request.conditions, plan.boxes, strict=True)):
        box = planned.snapped(canvas.factor) if seed_init.snap else planned
        if not box.inside(canvas.width, canvas.height):
            raise UserError(
                f"box {box.as_list()} reaches outside the {canvas.width} x {canvas.height} canvas: move or "
                "shrink it (planner.boxes)"
            )
        if box.w % canvas.factor or box.h % canvas.factor:
            raise UserError(
                f"box {box.as_list()} needs sides that are multiples of {canvas.factor} (planner.boxes)"
            )
        _warn_stretched(condition, box, canvas.factor)
        mask = pixel_mask(condition, box, seed_init.mask)
        crop = pixels_in(condition, box)
        behind = base.crop((box.x, box.y, box.right, box.bottom))
        crop = Image.composite(crop, behind, mask)
        picture.paste(crop, (box.x, box.y), mask)  # earlier conditions stay where this one's mask is open
        latent = torch.from_numpy(latent_mask(np.asarray(mask) >= 128, canvas.factor, seed_init.coverage))
        if not latent.any():
            raise UserError(
                f"the mask of {condition.name} keeps no latent of {latent.shape[1]} x {latent.shape[0]}: "
                "give a larger mask or box (condition.mask)"
            )
        top, left = box.y // canvas.factor, box.x // canvas.factor
        placed.append(PlacedCondition(to_tensor(crop), latent, top, left, sample, number, box))
    need_visible(placed, request, canvas)
    return to_tensor(picture), placed


def latent_mask(mask: NDArray[np.bool_], factor: int, coverage: float | None) -> NDArray[np.bool_]:
    """Which latents (h / factor, w / factor) a pixel mask (h, w) keeps (A25).

    Those with a share of at least `coverage` of their pixels in it; for None those whose first pixel is in
    it, the nearest resize of the mask.
    """
    if coverage is None:
        return mask[::factor, ::factor]
    blocks = mask.reshape(mask.shape[0] // factor, factor, mask.shape[1] // factor, factor)
    return blocks.mean((1, 3)) >= coverage


def need_visible(placed: Sequence[PlacedCondition], request: Request, canvas: Canvas) -> None:
    """Raise UserError for a condition of one request that later ones, which lie on top of it, cover
    wholly."""
    import torch

    taken = torch.zeros(canvas.latent_size, dtype=torch.bool)
    for condition in reversed(placed):
        height, width = condition.latent_mask.shape
        here = taken[condition.top : condition.top + height, condition.left : condition.left + width]
        if not (condition.latent_mask & ~here).any():
            raise UserError(
                f"{request.conditions[condition.condition].name} in box {condition.box.as_list()} is "
                "hidden by the "
                "conditions laid over it: later ones lie on top; move the boxes apart or change their order "
                "(condition.box, planner.boxes)"
            )
        here |= condition.latent_mask


def _warn_stretched(condition: VisualCondition, box: Box, factor: int) -> None:
    """Say that a picture is stretched to a box of another aspect; what the VAE's grid takes or adds is not
    counted."""
    width, height = condition.image.size
    if min(abs(box.w - box.h * width / height), abs(box.h - box.w * height / width)) > factor:
        log.warning(
            "%s is stretched: its picture is %d x %d, its box %d x %d (condition.box)",
            condition.name,
            width,
            height,
            box.w,
            box.h,
        )


def window(x: Tensor, placed: PlacedCondition) -> Tensor:
    """The part (C, h, w) of canvas latents or masks `x` (B, C, H, W) where a condition lies, as a view."""
    height, width = placed.latent_mask.shape
    return x[placed.sample, :, placed.top : placed.top + height, placed.left : placed.left + width]


def paste_latents(placed: Sequence[PlacedCondition], values: Sequence[Tensor], canvas: Tensor) -> Tensor:
    """Each condition's latents (C, h, w), cut to its mask, laid on zeros of `canvas`'s shape (B, C, H, W)."""
    import torch

    out = torch.zeros_like(canvas)
    for condition, value in zip(placed, values, strict=True):
        here = window(out, condition)
        here.copy_(torch.where(condition.latent_mask.to(canvas.device), value, here))
    return out


def canvas_mask(placed: Sequence[PlacedCondition], batch: int, latent_size: tuple[int, int]) -> Tensor:
    """M: (B, 1, H, W) bool, True where a condition's latent mask lies."""
    import torch

    out = torch.zeros((batch, 1, *latent_size), dtype=torch.bool)
    for condition in placed:
        here = window(out, condition)
        here |= condition.latent_mask
    return out


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests that share their network calls, their conditions in place (Algorithm 1, line 3).

    `pictures` (B, 3, H, W) in [-1, 1], the conditions on the background; `placed` each condition alone; `M`
    (B, 1, h, w) bool, True where a condition lies, on the CPU.
    """

    requests: Sequence[Request]
    plans: Sequence[Plan]
    generators: Sequence[torch.Generator]
    canvas: Canvas
    pictures: Tensor
    placed: Sequence[PlacedCondition]
    M: Tensor

    @classmethod
    def of(
        cls, requests: Sequence[Request], plans: Sequence[Plan], canvas: Canvas, seed_init: SeedInit
    ) -> Batch:
        """Requests placed where their plans say; raises UserError for a place that cannot be."""
        import torch

        from sow.method import noise

        generators = [noise.generator(r.seed) for r in requests]
        found = [
            place(seed_init, request, plan, canvas, sample, generator)
            for sample, (request, plan, generator) in enumerate(zip(requests, plans, generators, strict=True))
        ]
        placed = [condition for _, own in found for condition in own]
        M = canvas_mask(placed, len(requests), canvas.latent_size)
        return cls(requests, plans, generators, canvas, torch.stack([p for p, _ in found]), placed, M)

    def prompts(self, user: bool) -> list[str]:
        """The prompt of each request: the user's c, or the planner's c'."""
        return [r.prompt if user else p.prompt for r, p in zip(self.requests, self.plans, strict=True)]
