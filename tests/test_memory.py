"""Sizes that would fill a machine's memory are refused before anything is loaded; the memory is a stub."""

from __future__ import annotations

import pytest

import sow.pipeline.memory as memory
from sow.config.compose import compose
from sow.config.places import CONF
from sow.errors import UserError

ROOM = 16 * memory.GIB
# Of flows, and of checkpoints that are fetched, a canvas is checked like any other.
METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
FLOWS = ("flowedit", "rf_inversion", "kv_edit", "personalize_anything")


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: ROOM)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_takes_a_canvas_that_the_machine_cannot_hold(method: str) -> None:
    model = "people_flow" if method in FLOWS else "people"
    with pytest.raises(UserError) as error:
        compose([f"model={model}", f"method={method}", "tracker=none", "width=100000", "height=100000"])
    assert str(error.value).startswith("100000 x 100000 pixels need 1,192.1 GiB at least")
    assert "16.0 GiB free" in str(error.value) and "(width, height, model.canvas)" in str(error.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["model.canvas=[65536,65536]"], ["65536 x 65536 pixels need", "model.canvas"]),
        (["model=tiny", "width=1000000", "height=16384"], ["1000000 x 16384 pixels need"]),
        (["model=sd21_base", "width=65536", "height=65536"], ["65536 x 65536 pixels need"]),
        (["model=sdxl", "model.canvas=[65536,65536]"], ["65536 x 65536 pixels need"]),
        (["model=tiny", "experiment=debug", "width=65536", "height=65536"], ["65536 x 65536 pixels need"]),
        (["model.device=cuda", "width=65536", "height=65536"], ["need 128.0 GiB"]),
        (["batch_size=64", "study.images=64", "width=2048", "height=2048"],
            ["64 pictures at a time of 2048 x 2048 pixels need 32.0 GiB", "batch_size"]),
        (["width=100000000"], ["need 1 <= width <= 1000000", "(width)"]),
        (["batch_size=100000"], ["need 1 <= batch_size <= 1024", "(batch_size)"]),
        (["cycle.cycles=1000000000"], ["need 1 <= cycles <= 10000", "(cycle.cycles)"]),
        (["study.images=10000000000"], ["need 1 <= images <= 1000000", "(study.images)"]),
        (["study=u_turn", "study.images=10000000000"], ["images <= 1000000", "(study.images)"]),
        (["study=u_turn", "study.resamples=100000000000"], ["resamples <= 1000000", "(study.resamples)"]),
        (["study=benchmark", "study.limit=10000000000"], ["limit <= 1000000", "(study.limit)"]),
        (["study=plan", "study.drawn=10000000000"], ["drawn <= 1000000", "(study.drawn)"]),
        (["data.size=1000000"], ["need 16 <= size <= 4096", "(data.size)"]),
        (["condition.size=1000000"], ["need 16 <= size <= 4096", "(condition.size)"]),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_fill_the_memory_are_refused(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose(["tracker=none", *words])
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_what_the_machine_holds_goes_through() -> None:
    for words in ([], ["width=4096", "height=4096"], ["batch_size=64", "width=2048", "height=2048"]):
        compose(["model=people", "model.device=cpu", "tracker=none", *words])


def test_the_memory_of_this_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert memory.host_memory() > 2**20
