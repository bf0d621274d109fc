"""Copy or likeness: the measure's closed form, and the other picture that it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sow.data.conditions import Person
from sow.data.folder import ImageFolder
from sow.metrics.copying import another_picture, copy_paste
from sow.metrics.readings import readings
from sow.store.inputs import files_read


def on_circle(degrees: float, length: float = 1.0) -> list[float]:
    angle = np.deg2rad(degrees)
    return [length * np.cos(angle), length * np.sin(angle)]


@pytest.mark.parametrize(
    ("made", "wanted"), [(0, 1.0), (60, -1.0), (30, 0.0), (15, 0.5), (-90, 1.0), (210, -0.0)]
)
def test_angles_on_a_circle(made: float, wanted: float) -> None:
    found = copy_paste(on_circle(made, 3.0), on_circle(0), on_circle(60, 0.5))
    assert found == pytest.approx(wanted, abs=1e-9)


def test_one_picture_twice_decides_nothing() -> None:
    assert copy_paste(on_circle(40), on_circle(10), on_circle(10)) == 0


def test_it_lies_between_a_copy_and_the_other_picture() -> None:
    rng = np.random.default_rng(0)
    found = [copy_paste(*rng.normal(size=(3, 64))) for _ in range(500)]
    assert max(map(abs, found)) <= 1


def test_another_picture_is_the_same_person_in_another_pose() -> None:
    (given,) = Person(40, None, 128, 1, {"style": "photo", "weather": "clear"}, None).load(0)
    other = another_picture(given)
    assert other is not None and other.image.size == given.image.size
    assert np.abs(np.asarray(other.image, int) - np.asarray(given.image, int)).mean() > 3
    (stranger,) = Person(41, None, 128, 1, {"style": "photo", "weather": "clear"}, None).load(0)
    a, b, c = readings(
        [p.image for p in (given, other, stranger)], [p.bounds() for p in (given, other, stranger)]
    )
    assert a.attributes["expression"] != b.attributes["expression"]
    assert np.linalg.norm(a.embedding - b.embedding) < np.linalg.norm(a.embedding - c.embedding)
    assert copy_paste(a.embedding, a.embedding, b.embedding) == pytest.approx(1, abs=1e-3)
    assert copy_paste(b.embedding, a.embedding, b.embedding) == pytest.approx(-1, abs=1e-3)


def test_photographs_are_paired_by_folder(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "green"), ("others/a.jpg", "blue")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    data = ImageFolder(str(tmp_path), None, "a cat", "normal", None, "none", "white", "none", 0.0)
    with_other, alone = (g.request.conditions[0] for g in data.groups("all"))
    other = another_picture(with_other)
    assert other is not None and np.asarray(other.image)[0, 0, 2] > 200
    assert another_picture(alone) is None
    assert tmp_path / "others/a.jpg" in files_read(data)
