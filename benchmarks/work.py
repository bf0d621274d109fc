"""What the ratios are made of: lines of the table, work that is counted,
and network calls that are made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.timing import Timed, interval, ratio
from sow.attention.modulator import Modulator
from sow.attention.processor import SelfAttentionProcessor, modulated, self_attention


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` (median, first and third quartile), `interval` of the median (95 %),
    `expected` at most, or at least, None = report."""

    name: str
    value: tuple[float, float, float]
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_mib: Mapping[str, float] = field(default_factory=dict)
    work: str = ""
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the expectation holds; None if there is none."""
        if self.at_most is not None:
            return self.value[0] <= self.at_most
        return self.value[0] >= self.at_least if self.at_least is not None else None


def row(
    name: str, timed: Mapping[str, Timed], over: str, under: str, work: str, scale: float = 1.0, **expected
) -> Row:
    """The ratio of two contestants; `scale` times it where a contestant does several units of work."""
    value, ends = ratio(timed[over], timed[under]), interval(timed[over], timed[under])
    return Row(
        name,
        (value[0] * scale, value[1] * scale, value[2] * scale),
        interval=(ends[0] * scale, ends[1] * scale),
        seconds={n: t.median for n, t in timed.items()},
        peak_mib={n: round(t.peak_mib, 1) for n, t in timed.items()},
        work=work,
        **expected,
    )


def counted(backbone: Any, action: Callable[[], object]) -> Counter:
    """UNet sample-evaluations by latent size that `action` takes."""
    before = Counter(backbone.evaluations)
    action()
    return Counter({k: n - before[k] for k, n in backbone.evaluations.items() if n != before[k]})


def same_work(name: str, **sides: Mapping[Any, int]) -> str:
    """The work in words; raises AssertionError where the sides differ, before anything is timed."""
    first, *others = sides.values()
    if any(dict(other) != dict(first) for other in others):
        raise AssertionError(
            f"{name}: the sides do not do the same work: { ({k: dict(v) for k, v in sides.items()}) }"
        )
    return ", ".join(f"{n} at {h}x{w}" for (h, w), n in sorted(first.items()))


def forget_prompts(backbone: Any) -> None:
    """Cold prompt embeddings."""
    backbone.prompt_embeds.clear()


@contextmanager
def recorded(backbone: Any) -> Iterator[list[Callable[[], object]]]:
    """Within the block every call of the networks is noted,
    so that it can be made again; the list is theirs."""
    calls: list[Callable[[], object]] = []
    predict, encode, decode, prompt = (
        backbone.predict,
        backbone.encode,
        backbone.decode,
        backbone.encode_prompt,
    )
    layers = self_attention(backbone.unet)

    def seen_predict(*args: Any) -> Tensor:
        processor = layers[0][1].processor
        if isinstance(processor, SelfAttentionProcessor):
            calls.append(Modulated(backbone, processor.modulator, args, predict))
        else:
            calls.append(lambda: predict(*args))
        return predict(*args)

    def seen(original: Callable) -> Callable:
        def call(*args: Any) -> Any:
            calls.append(lambda: original(*args))
            return original(*args)

        return call

    own = {
        "predict": seen_predict,
        "encode": seen(encode),
        "decode": seen(decode),
        "encode_prompt": seen(prompt),
    }
    vars(backbone).update(own)
    try:
        yield calls
    finally:
        for name in own:
            del vars(backbone)[name]


class Modulated:
    """A UNet call with modulated attention, to be made again."""

    def __init__(self, backbone: Any, modulator: Modulator, args: tuple[Any, ...], predict: Callable) -> None:
        self.strengths = (
            float(modulator.strength.minus),
            float(modulator.strength.plus),
            len(args[0]) // modulator.batch,
            modulator.text_branch,
        )
        self.backbone, self.modulator, self.args, self.predict = backbone, modulator, args, predict

    def __call__(self) -> None:
        with modulated(self.backbone.unet, self.modulator):
            self.modulator.begin(*self.strengths)
            self.predict(*self.args)
            self.modulator.end()
