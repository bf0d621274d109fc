"""Pixels exactly kept on request: inside the mask, nowhere else, and in no table beside pictures without."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark.rows import Row
from sow import compose
from sow.errors import UserError
from sow.method.paste_back import Feathered, Hard, NoPasteBack, PasteBack
from sow.types import Box, Plan, Request, VisualCondition


def noise(size: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def left_half(size: int) -> Image.Image:
    mask = Image.new("L", (size, size))
    mask.paste(255, (0, 0, size // 2, size))
    return mask


PICTURE = noise(64, 0)
REQUEST = Request((VisualCondition(noise(32, 1), left_half(32)), VisualCondition(noise(32, 2))), "a cat")
BOXES = Box(4, 8, 32, 32), Box(12, 24, 16, 16)  # the second lies over the first
PLAN = Plan(BOXES, BOXES, "a cat", "test")


def over(how: PasteBack, request: Request = REQUEST, plan: Plan = PLAN) -> np.ndarray:
    return np.asarray(how.over(PICTURE, request, plan, "threshold"), int)


def test_none_changes_nothing() -> None:
    assert NoPasteBack().over(PICTURE, REQUEST, PLAN, "threshold") is PICTURE


def test_hard_keeps_every_pixel_of_the_mask_and_no_other() -> None:
    found, before = over(Hard()), np.asarray(PICTURE, int)
    wanted = before.copy()
    wanted[8:40, 4:20] = np.asarray(REQUEST.conditions[0].image)[:, :16]
    wanted[24:40, 12:28] = np.asarray(REQUEST.conditions[1].image.resize((16, 16)))
    assert np.array_equal(found, wanted)
    assert np.array_equal(np.asarray(PICTURE, int), before)


def test_feathered_fades_inwards_and_is_exact_within() -> None:
    """The half mask is 16 x 32, the rim 8 wide: only its two middle columns are whole."""
    one = Request(REQUEST.conditions[:1], "a cat"), Plan(BOXES[:1], BOXES[:1], "a cat", "test")
    before, own = np.asarray(PICTURE, int), np.asarray(REQUEST.conditions[0].image, int)
    found = over(Feathered(0.25), *one)
    outside = np.ones((64, 64), bool)
    outside[8:40, 4:20] = False
    assert np.array_equal(found[outside], before[outside])
    here, kept = found[8:40, 4:20], own[:, :16]
    assert np.array_equal(here[12:20, 7:9], kept[12:20, 7:9])
    first = before[8:40, 4:20] + (kept - before[8:40, 4:20]) / 8
    assert np.abs(here[16, 0] - first[16, 0]).max() <= 0.5


@pytest.mark.parametrize("method", ["sow", "repaint"])
def test_it_is_a_group_for_every_method_and_in_the_configuration(method: str) -> None:
    config = compose([f"method={method}", "paste_back=feathered", "paste_back.width=0.1"])
    assert config.paste_back == Feathered(0.1) and config.resolved["paste_back"]["width"] == 0.1
    with pytest.raises(UserError, match=r"paste_back\.width"):
        compose(["paste_back=feathered", "paste_back.width=0"])


def test_tables_do_not_mix_it(tmp_path) -> None:
    from experiments.benchmark.work import Work
    from experiments.core.study import StudyContext
    from sow.runs.records import RunFolder

    rows = "+study.rows={plain: {overrides: []}, pasted: {overrides: ['paste_back=hard']}}"
    words = ["study=benchmark", "study.limit=3", f"paths.outputs={tmp_path}", rows]
    mixed = compose(words)
    with pytest.raises(UserError, match=r"pasted has hard, plain has none.*\(study\.rows, paste_back\)"):
        Work(mixed.study, StudyContext(mixed, RunFolder(tmp_path / "run"))).need_alike()
    alike = compose([*words[:-1], "paste_back=hard", "+study.rows={plain: {overrides: []}}"])
    assert isinstance(alike.study.parsed[0], Row)
    Work(alike.study, StudyContext(alike, RunFolder(tmp_path / "run2"))).need_alike()
