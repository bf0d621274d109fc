"""The values that travel from a request to a sample, and what a component of the configuration is; no tensor
library is imported to describe them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from sow.errors import UserError, explain_invalid

if TYPE_CHECKING:
    import torch
    from PIL import Image

Class = TypeVar("Class", bound=type[Any])
Phase = Literal["invert_condition", "invert_canvas", "sample", "cycle", "preserve"]
Event = Literal["start", "inject", "denoise", "replace"]


@dataclass(frozen=True, order=True)
class Box:
    """An axis-aligned rectangle in pixels, [x, y, width, height] with (x, y) the upper left corner (Sec.

    IV-A).
    """

    x: int
    y: int
    w: int
    h: int

    def __post_init__(self) -> None:
        if self.w <= 0 or self.h <= 0:
            raise UserError(f"a box needs a positive width and height, got {self.as_list()}")

    @classmethod
    def of(cls, values: Sequence[float]) -> Box:
        """A box from any four numbers [x, y, width, height], rounded to whole pixels."""
        if len(values) != 4:
            raise UserError(f"a box is [x, y, width, height], got {list(values)}")
        if any(isinstance(v, bool) or not math.isfinite(float(v)) for v in values):
            raise UserError(f"a box is four numbers, got {list(values)}")
        return cls(*(round(float(v)) for v in values))

    @property
    def right(self) -> int:
        return self.x + self.w

    @property
    def bottom(self) -> int:
        return self.y + self.h

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2

    @property
    def area(self) -> int:
        return self.w * self.h

    def as_list(self) -> list[int]:
        return [self.x, self.y, self.w, self.h]

    def intersection(self, other: Box) -> int:
        """Area shared with `other`, in square pixels."""
        width = min(self.right, other.right) - max(self.x, other.x)
        height = min(self.bottom, other.bottom) - max(self.y, other.y)
        return max(0, width) * max(0, height)

    def iou(self, other: Box) -> float:
        """Intersection over union with `other`, in [0, 1]."""
        shared = self.intersection(other)
        return shared / (self.area + other.area - shared)

    def inside(self, width: int, height: int) -> bool:
        """Whether the box lies wholly on a canvas of `width` x `height` pixels."""
        return self.x >= 0 and self.y >= 0 and self.right <= width and self.bottom <= height

    def clipped(self, width: int, height: int) -> Box:
        """The part of the box on a canvas of `width` x `height`; raises UserError when nothing is left."""
        x, y = max(0, self.x), max(0, self.y)
        right, bottom = min(width, self.right), min(height, self.bottom)
        if right <= x or bottom <= y:
            raise UserError(f"box {self.as_list()} lies outside the {width} x {height} canvas")
        return Box(x, y, right - x, bottom - y)

    def snapped(self, factor: int) -> Box:
        """The box moved to the grid of the VAE: offsets rounded down,
        sizes to the nearest multiple of `factor`."""
        return Box(
            self.x // factor * factor,
            self.y // factor * factor,
            max(factor, (self.w + factor // 2) // factor * factor),
            max(factor, (self.h + factor // 2) // factor * factor),
        )

    def scaled(self, ratio: float) -> Box:
        """The box in the pixels of a canvas `ratio` times as large."""
        return Box.of([v * ratio for v in self.as_list()])


@dataclass(frozen=True)
class Canvas:
    """Size of the generated image in pixels, the VAE's factor, and the limits of a condition's side (Sec.

    V).
    """

    width: int
    height: int
    factor: int
    condition_min: int
    condition_max: int

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return self.height // self.factor, self.width // self.factor


@dataclass(frozen=True, eq=False)
class VisualCondition:
    """One visual condition V_0: an RGB picture and the pixels of it that belong to the condition.

    `image`  PIL RGB. `mask`  PIL "L" of the same size, 255 = belongs to the condition, 0 = does not; None =
             all of it.
    `box`    where the user wants it, in canvas pixels; None leaves the place to the planner.
    `truth`  what is known about the picture (a rendered person's attributes and identity; "another", which
             makes another picture of the person); only metrics read it.
    """

    image: Image.Image
    mask: Image.Image | None = None
    box: Box | None = None
    name: str = "condition"
    truth: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mask is not None:
            if self.mask.size != self.image.size:
                raise UserError(
                    f"the mask is {self.mask.size[0]} x {self.mask.size[1]} but its image is "
                    f"{self.image.size[0]} x {self.image.size[1]}: give a mask of the image's size "
                    "(condition.mask)"
                )
            if self.mask.convert("L").getextrema()[1] == 0:
                raise UserError(f"the mask of {self.name} is empty: mark the pixels to keep (condition.mask)")

    def bounds(self) -> Box:
        """Bounds of the mask (values of at least 128) in the image's own pixels;
        the whole image without a mask."""
        if self.mask is not None:
            found = self.mask.convert("L").point([0] * 128 + [255] * 128).getbbox()
            if found is not None:
                return Box(found[0], found[1], found[2] - found[0], found[3] - found[1])
        return Box(0, 0, *self.image.size)

    def subject_in(self, box: Box) -> Box:
        """Where the masked subject lies on the canvas once the condition fills `box`;
        `box` itself without a mask."""
        bounds = self.bounds()
        sx, sy = box.w / self.image.width, box.h / self.image.height
        return Box(
            round(box.x + bounds.x * sx),
            round(box.y + bounds.y * sy),
            max(1, round(bounds.w * sx)),
            max(1, round(bounds.h * sy)),
        )

    def on_gray(self) -> Image.Image:
        """The picture as RGB, mid-gray where the mask leaves it out."""
        from PIL import Image

        image = self.image.convert("RGB")
        if self.mask is None:
            return image
        return Image.composite(image, Image.new("RGB", image.size, (128, 128, 128)), self.mask.convert("L"))


@dataclass(frozen=True, eq=False)
class Request:
    """One TV2I request: visual conditions, prompt c, seed,
    and the task setting it belongs to (None = the sampler's)."""

    conditions: tuple[VisualCondition, ...]
    prompt: str
    task: str | None = None
    seed: int = 0
    id: str = "0"

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(self.conditions))


@dataclass(frozen=True)
class Plan:
    """What the planner decided (Sec.

    IV-A): one box_v a condition, the related region box_r (a union), the prompt c'.
    """

    boxes: tuple[Box, ...]
    related: tuple[Box, ...]
    prompt: str
    source: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for plan.json."""
        return {
            "boxes": [b.as_list() for b in self.boxes],
            "related": [b.as_list() for b in self.related],
            "prompt": self.prompt,
            "source": self.source,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` wrote; raises UserError, which names the field, for anything else."""
        if not isinstance(values, Mapping):
            raise UserError(
                f"a plan is an object with boxes, related, prompt and source, got {values!r:.100}"
            )
        for name in ("boxes", "related", "prompt", "source"):
            if name not in values:
                raise UserError(f"{name} is missing")
        for name in values:
            if name not in ("boxes", "related", "prompt", "source", "details", "id", "task"):
                raise UserError(f"{str(name):.100} is no field of a plan")
        texts, details = {name: values[name] for name in ("prompt", "source")}, values.get("details", {})
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{name} is a text, got {text!r:.100}")
        if not isinstance(details, Mapping):
            raise UserError(f"details is an object, got {details!r:.100}")
        return cls(
            boxes=_boxes(values, "boxes"),
            related=_boxes(values, "related"),
            **texts,
            details=dict(details),
        )


def _boxes(values: Mapping[str, Any], name: str) -> tuple[Box, ...]:
    """The boxes of a stored plan's field; raises UserError, which names the field and the box."""
    found = values[name]
    if not isinstance(found, (list, tuple)):
        raise UserError(f"{name} is a list of boxes [x, y, width, height], got {found!r:.100}")
    out = []
    for i, box in enumerate(found):
        if not isinstance(box, (list, tuple)) or not all(isinstance(v, (int, float)) for v in box):
            raise UserError(f"{name}[{i}] is four numbers [x, y, width, height], got {box!r:.100}")
        try:
            out.append(Box.of(box))
        except UserError as error:
            raise UserError(f"{name}[{i}]: {error}") from error
        except OverflowError as error:  # a whole number beyond any float
            raise UserError(f"{name}[{i}]: a number has {len(str(max(map(abs, box))))} digits") from error
    return tuple(out)


@dataclass(frozen=True)
class StepContext:
    """Where in Algorithm 1 a UNet call stands: the only clock there is.

    `phase`; `cycle` from 0, None outside the cycles; `index` k of the step x_{k+1} -> x_k (x_k -> x_{k+1} in
    an inversion), or of the state x_k for start, inject and replace; `timestep` t_k of the UNet call, None
    where there is none; `condition` which visual condition is being inverted.
    """

    phase: Phase
    cycle: int | None = None
    index: int | None = None
    timestep: float | None = None
    condition: int | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One visible step.

    `latents` (B, C, h, w) after the event; `gates` maps a layer's name to its (R_c, factor), each (B, parts),
    nan where the layer is not modulated; `denoised` the x_0 predicted by a denoising step; `samples` the
    sample of the batch that each row belongs to, None where row i is sample i.
    """

    latents: torch.Tensor
    event: Event
    context: StepContext
    gates: Mapping[str, Any] = field(default_factory=dict)
    denoised: torch.Tensor | None = None
    samples: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """A finished image.

    `image` PIL RGB; `latents` (1, C, h, w); `snapshots` one small image after each cycle; `trace` one row a
    step (phase, cycle, index, timestep, event, norm, and R_c and gate for each layer); `seconds` by phase;
    `counts` UNet sample-evaluations by latent size.
    """

    request: Request
    plan: Plan
    image: Image.Image
    latents: torch.Tensor
    canvas: Canvas
    snapshots: tuple[Image.Image, ...] = ()
    trace: tuple[Mapping[str, Any], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"{self.image.width} x {self.image.height}"
        return f"Sample({self.request.prompt!r}, seed {self.request.seed}, {size}, {len(self.trace)} steps)"

    @property
    def view(self) -> Image.Image:
        """The image as it is shown: four times as large where no side has more than 256 pixels."""
        if max(self.image.size) > 256:
            return self.image
        return self.image.resize([4 * n for n in self.image.size], 1)  # 1: Lanczos

    def _repr_png_(self) -> bytes:
        """The `view`, as a notebook shows it."""
        import io

        buffer = io.BytesIO()
        self.view.save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Bound:
    """The interval that a number of a component lies in: `Annotated[float, Bound(gt=0, le=10)]`.

    Of a list it bounds each element, of a mapping each value; None, where a field may be left open, passes,
    and nan never does.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def words(self, name: str) -> str:
        """`0 < name <= 10`, or `name >= 0` where only one end is bounded."""
        low, below = (self.ge, "<=") if self.gt is None else (self.gt, "<")
        high, above = (self.le, "<=") if self.lt is None else (self.lt, "<")
        if high is None:
            return f"{name} {'>=' if self.gt is None else '>'} {low}"
        return f"{name} {above} {high}" if low is None else f"{low} {below} {name} {above} {high}"

    def holds(self, value: Any) -> bool:
        """Whether `value` lies in the interval."""
        if value is None or isinstance(value, str):
            return True
        if isinstance(value, Mapping):
            return all(map(self.holds, value.values()))
        if isinstance(value, (list, tuple)):
            return all(map(self.holds, value))
        low = self.gt is None or value > self.gt, self.ge is None or value >= self.ge
        high = self.lt is None or value < self.lt, self.le is None or value <= self.le
        return all(low + high)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Pydantic's own hook: the check after that of the type."""
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if not self.holds(value):
                raise PydanticCustomError("bound", "out of bounds", {"bound": self})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


# A seed; counted up from it, for several images or conditions, it stays a whole number of 64 bits.
SeedNumber = Annotated[int, Bound(ge=0, le=2**62)]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def component(key: str, *, eq: bool = True) -> Callable[[Class], Class]:
    """A frozen dataclass that pydantic validates: types, unknown names, `Bound`s; every number is finite.

    `key` is its usual place in the configuration, for errors. Integers become floats, lists tuples, words
    paths and numbers text; nothing else is converted. Raises UserError when made of anything else. Without
    pydantic, which drawing and sampling do not need, a plain frozen dataclass.
    """

    def decorate(cls: Class) -> Class:
        try:
            from pydantic import ValidationError
            from pydantic.dataclasses import dataclass as validated
        except ModuleNotFoundError:
            return cast(Class, dataclass(frozen=True, eq=eq)(cls))
        cls.__get_pydantic_core_schema__ = classmethod(_strict_numbers)
        built: Any = validated(frozen=True, eq=eq, config=_VALIDATION)(cls)  # type: ignore[call-overload]
        assert built.__pydantic_complete__, f"{cls.__name__} is annotated with names unknown at run time"
        construct = built.__init__

        @functools.wraps(construct)
        def __init__(self: Any, *values: Any, **named: Any) -> None:
            try:
                construct(self, *values, **named)
            except ValidationError as error:
                names = dict(zip(built.__dataclass_fields__, values, strict=False)) | named
                raise explain_invalid(error, built, names, key) from None

        built.__init__ = __init__
        return cast(Class, built)

    return decorate


_VALIDATION = {
    "extra": "forbid",
    "allow_inf_nan": False,
    "coerce_numbers_to_str": True,  # a file or a prompt may be called 2024
    "arbitrary_types_allowed": True,
}


def _strict_numbers(cls: type[Any], source: Any, handler: Callable[[Any], Any]) -> Any:
    """Pydantic's hook of a class: numbers and truth values are not read from text or from each other."""

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") in ("int", "float", "bool"):
                node["strict"] = True
            node = node.values()
        elif not isinstance(node, (list, tuple)):
            return
        for part in node:
            walk(part)

    schema = handler(source)
    walk(schema)
    return schema
