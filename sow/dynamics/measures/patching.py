"""Patching: one activation of a run replaced by another run's,
and what of the outcome moves with it (layer x step x region).

Notation
    site      (module name, step): one activation of a run; steps are named by the caller, `tape.step = k`
    own       outcome of the run that is patched, left alone; `other` that of the run that gives it
    moved     (patched - own) . (other - own) / |other - own|^2: 0 where the patch changes nothing, 1 where it
              makes the outcome the other run's; not bounded, and nan where both outcomes agree anyway

Causal tracing was made for language models (arXiv 2202.05262, Sec. 2), where the run that is patched is a
corrupted one and the score a token's probability. What differs: both runs here are ordinary ones (another
prompt, another condition), the place has a region of the canvas besides a layer, and the outcome is a
picture, so that its share on the line between the two outcomes is the score; a patch may also move it off
that line, which `moved_off` says.

Works on any module with hooks, whatever it returns: a tensor, or a tuple or list whose first entry is one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Site = tuple[str, Hashable]


@dataclass(eq=False)
class Tape:
    """Activations of a run by site. Set `step` before every call of the model; a site is written once."""

    step: Hashable = None
    activations: dict[Site, Tensor] = field(default_factory=dict)


@contextmanager
def recorded(model: nn.Module, names: Iterable[str]) -> Iterator[Tape]:
    """Within the block the outputs of the modules `names` go to the tape that it yields; then the hooks are
    gone.

    Raises ValueError for an unknown name, or a module that runs twice in one step.
    """
    tape = Tape()

    def keep(name: str, output: Tensor) -> None:
        if (name, tape.step) in tape.activations:
            raise ValueError(
                f"{name} ran twice in step {tape.step}: set tape.step before every call of the model"
            )
        tape.activations[name, tape.step] = output.detach().clone()

    with _hooked(model, names, keep):
        yield tape


@contextmanager
def patched(
    model: nn.Module, source: Tape, sites: Iterable[Site], region: Tensor | None = None
) -> Iterator[Tape]:
    """Within the block the activations at `sites` are those of `source`, inside `region` (H, W, bool; None:
    everywhere).

    Yields the tape whose `step` names the step that runs. Activations are maps (B, C, h, w) or tokens (B, h
    w, C) of the canvas; the region is brought to their size by the nearest pixel. Raises ValueError for a
    site that the source lacks, another shape, or tokens that are no grid of the region's aspect.
    """
    tape = Tape()
    wanted = set(sites)
    for site in wanted:
        if site not in source.activations:
            raise ValueError(f"the other run has no activation of {site[0]} in step {site[1]}")

    def put(name: str, output: Tensor) -> Tensor | None:
        if (name, tape.step) not in wanted:
            return None
        other = source.activations[name, tape.step].to(output)
        if other.shape != output.shape:
            raise ValueError(
                f"{name} is {tuple(output.shape)} here and {tuple(other.shape)} in the other run"
            )
        return other if region is None else torch.where(region_of(region, output), other, output)

    with _hooked(model, {name for name, _ in wanted}, put):
        yield tape


def region_of(region: Tensor, activation: Tensor) -> Tensor:
    """`region` (H, W, bool) at the size of an activation, (1, 1, h, w) or (1, h w, 1); any pixel wide at
    least if set.

    Raises ValueError for an activation that is neither map nor grid of tokens.
    """
    if activation.ndim == 4:
        return _resized(region, *activation.shape[-2:])[None, None]
    height, width = region.shape
    rows = round((activation.shape[1] * height / width) ** 0.5) if activation.ndim == 3 else 0
    if not rows or activation.shape[1] % rows:
        raise ValueError(
            f"no map and no grid of tokens of a {height} x {width} canvas: {tuple(activation.shape)}"
        )
    return _resized(region, rows, activation.shape[1] // rows).reshape(1, -1, 1)


def moved(own: Tensor, other: Tensor, result: Tensor, region: Tensor | None = None) -> Tensor:
    """The share of the way from `own` to `other` per image, (B,), of outcomes (B, ...);
    inside `region` if given."""
    line, step = _inside(other - own, region), _inside(result - own, region)
    return (line * step).sum(1) / (line**2).sum(1)


def moved_off(own: Tensor, other: Tensor, result: Tensor, region: Tensor | None = None) -> Tensor:
    """The distance of `result` from the line between `own` and `other`, per image,
    in units of the line's length."""
    line, step = _inside(other - own, region), _inside(result - own, region)
    along = moved(own, other, result, region)[:, None] * line
    return (step - along).norm(dim=1) / line.norm(dim=1)


def trace(
    run: Callable[[Tape], Tensor],
    model: nn.Module,
    source: Tape,
    places: Mapping[Hashable, Iterable[Site]],
    region: Tensor | None = None,
) -> dict[Hashable, Tensor]:
    """The outcome of `run` for each of `places`, patched there and nowhere else.

    `run` does a whole run with `model` and sets its tape's step before each call.
    """
    outcomes: dict[Hashable, Tensor] = {}
    for place, sites in places.items():
        with patched(model, source, sites, region) as tape:
            outcomes[place] = run(tape)
    return outcomes


@contextmanager
def _hooked(
    model: nn.Module, names: Iterable[str], do: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    modules = dict(model.named_modules())
    handles = []
    try:
        for name in names:
            if name not in modules:
                raise ValueError(f"the model has no module {name}")
            handles.append(modules[name].register_forward_hook(_hook(name, do)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, do: Callable[[str, Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        first = output if isinstance(output, Tensor) else output[0]
        new = do(name, first)
        if new is None or isinstance(output, Tensor):
            return new
        return type(output)((new, *output[1:]))

    return hook


def _resized(region: Tensor, height: int, width: int) -> Tensor:
    large = region[None, None].float()
    return torch.nn.functional.interpolate(large, size=(height, width), mode="nearest")[0, 0] > 0.5


def _inside(values: Tensor, region: Tensor | None) -> Tensor:
    return values.flatten(1) if region is None else (values * region.to(values)).flatten(1)
