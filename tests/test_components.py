"""A component is made of what its annotations say,
or refused on one line with the value, its key and the cure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from sow.config.schema import construct, instantiate
from sow.errors import UserError
from sow.types import Bound, component


@component("part")
class Part:
    """A component inside another."""

    size: Annotated[int, Bound(ge=1)]


@component("made")
class Made:
    """One field of each kind."""

    share: Annotated[float, Bound(ge=0, le=1)] = 0.5
    rate: Annotated[float, Bound(gt=0)] = 1.0
    seeds: Annotated[int | None, Bound(ge=0, le=2**63 - 1)] = None
    sizes: Annotated[tuple[float, ...], Bound(gt=0, lt=1)] = (0.5,)
    rates: Annotated[Mapping[str, float], Bound(gt=0)] | None = None
    kind: Literal["box", "mask"] = "box"
    kinds: Sequence[Literal["up", "down"]] = ("up",)
    color: list[int] | str = "noise"
    folder: Path = Path(".")
    name: str = ""
    force: bool = False
    part: Part | None = None
    anything: Any = None
    t1: float = 1.0
    t2: float = 2.0

    def __post_init__(self) -> None:
        if self.t1 >= self.t2:
            raise UserError(f"need t1 < t2, got t1={self.t1:g}, t2={self.t2:g} (made.t1, made.t2)")


GOOD = [
    ({"share": 1}, "share", 1.0),
    ({"sizes": [0.25, 0.5]}, "sizes", (0.25, 0.5)),
    ({"folder": "a/b"}, "folder", Path("a/b")),
    ({"name": 2024}, "name", "2024"),
    ({"seeds": 2**63 - 1}, "seeds", 2**63 - 1),
    ({"seeds": None}, "seeds", None),
    ({"color": [1, 2, 3]}, "color", [1, 2, 3]),
    ({"part": {"size": 3}}, "part", Part(3)),
    ({"part": Part(3)}, "part", Part(3)),
    ({"anything": [1, "a", None]}, "anything", [1, "a", None]),
]
BAD = [
    ({"share": 1.5}, "need 0 <= share <= 1, got 1.5 (made.share)"),
    ({"share": float("nan")}, "made.share=nan is not finite: give a number (made.share)"),
    ({"rate": float("inf")}, "made.rate=inf is not finite: give a number (made.rate)"),
    ({"sizes": [0.5, float("-inf")]}, "made.sizes=[0.5, -inf] is not finite: give a number (made.sizes)"),
    ({"rates": {"all": float("nan")}}, "made.rates={'all': nan} is not finite: give a number (made.rates)"),
    ({"rate": 0}, "need rate > 0, got 0 (made.rate)"),
    ({"seeds": -1}, "need 0 <= seeds <= 9223372036854775807, got -1 (made.seeds)"),
    ({"seeds": 2**63}, "need 0 <= seeds <= 9223372036854775807, got 9223372036854775808 (made.seeds)"),
    ({"sizes": [0.5, 1.0]}, "need 0 < sizes < 1, got [0.5, 1.0] (made.sizes)"),
    ({"rates": {"all": 0.0}}, "need rates > 0, got {'all': 0.0} (made.rates)"),
    ({"share": "half"}, "made.share='half' is not a number (made.share)"),
    ({"share": True}, "made.share=True is not a number (made.share)"),
    ({"share": "0.5"}, "made.share='0.5' is not a number (made.share)"),
    ({"seeds": 2.0}, "made.seeds=2.0 is not a whole number or null (made.seeds)"),
    ({"seeds": False}, "made.seeds=False is not a whole number or null (made.seeds)"),
    ({"force": 1}, "made.force=1 is not true or false (made.force)"),
    ({"force": "yes"}, "made.force='yes' is not true or false (made.force)"),
    ({"name": None}, "made.name=None is not text (made.name)"),
    ({"name": True}, "made.name=True is not text (made.name)"),
    ({"kind": "face"}, "made.kind='face': choose one of box, mask (made.kind)"),
    ({"kind": ["box"]}, "made.kind=['box']: choose one of box, mask (made.kind)"),
    ({"kinds": ["up", "left"]}, "made.kinds=['up', 'left']: choose one of up, down (made.kinds)"),
    ({"color": [1, "a"]}, "made.color=[1, 'a'] is not a list of a whole number or text (made.color)"),
    ({"folder": 3}, "made.folder=3 is not a path (made.folder)"),
    ({"seeds": "???"}, "made.seeds has no value: give made.seeds=... (made.seeds)"),
    ({"part": {"size": 0}}, "need size >= 1, got 0 (made.part.size)"),
    ({"part": {"size": 1, "sise": 2}}, "made.part.sise is unknown: did you mean made.part.size?"),
    ({"part": {}}, "made.part.size has no value: give made.part.size=... (made.part.size)"),
    ({"part": 4}, "made.part=4 is not Part or null (made.part)"),
    ({"shape": 1}, "made.shape is unknown: did you mean made.share? choose one of made.anything,"),
    ({"t1": 3}, "need t1 < t2, got t1=3, t2=2 (made.t1, made.t2)"),
]


@pytest.mark.parametrize(("values", "name", "value"), GOOD, ids=str)
def test_values_become_what_the_annotation_says(values: dict[str, Any], name: str, value: Any) -> None:
    for made in (construct(Made, values, "made"), Made(**values), replace(Made(), **values)):
        assert getattr(made, name) == value and type(getattr(made, name)) is type(value)


@pytest.mark.parametrize(("values", "message"), BAD, ids=str)
def test_anything_else_is_refused_on_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as from_configuration:
        construct(Made, values, "made")
    with pytest.raises(UserError) as from_python:
        Made(**values)
    assert str(from_configuration.value).startswith(message)
    assert str(from_python.value) == str(from_configuration.value)


def test_a_component_is_frozen_and_named_by_its_place() -> None:
    with pytest.raises(AttributeError):
        Made().share = 0.25  # type: ignore[misc]
    with pytest.raises(UserError, match=r"study\.arms\.first\.share"):
        construct(Made, {"share": 2}, "study.arms.first")


def test_parts_with_a_target_become_components() -> None:
    node = {
        "_target_": "sow.metrics.several.Several",
        "parts": {"none": {"_target_": "sow.metrics.none.NoMetrics"}},
    }
    assert type(instantiate(node, "metrics").parts["none"]).__name__ == "NoMetrics"
    node["parts"]["none"]["_target_"] = "sow.metrics.none.All"
    with pytest.raises(UserError, match=r"not a component.*metrics\.parts\.none\._target_"):
        instantiate(node, "metrics")


def test_without_pydantic_a_component_is_a_plain_dataclass() -> None:
    code = """
import sys
sys.modules["pydantic"] = None
from typing import Annotated
from sow.types import Bound, component

@component("part")
class Part:
    size: Annotated[int, Bound(ge=1)] = 2

assert Part() == Part(2) and Part(3).size == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True)
