"""Metrics against independent truth, what is remembered of them, and several at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sow.config.compose import compose
from sow.data.conditions import Photo
from sow.errors import UserError
from sow.metrics import Metrics, columns, mean
from sow.metrics import faces as faces_module
from sow.metrics.clip import cosine
from sow.metrics.faces import Faces, detect_all_faces, face_distance, kept_faces
from sow.metrics.none import NoMetrics
from sow.metrics.people import PeopleMetrics
from sow.metrics.pixels import Pixels
from sow.metrics.readings import readings
from sow.metrics.several import Several
from sow.people.judge.composites import Figure, truncated
from sow.people.judge.samples import figure_of
from sow.store.fingerprint import fingerprint
from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition

SEED = 3_475_000_000
COUNT = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@cache
def photograph() -> Image.Image:
    return Photo("sample:grace_hopper.jpg", "none", "white", "none", None).load(0)[0].image


def sample(image: Image.Image, condition: VisualCondition, box: Box, prompt: str = "a person") -> Sample:
    canvas = Canvas(*image.size, 8, 32, image.width)
    request = Request((condition,), prompt)
    return Sample(request, Plan((box,), (), prompt, "test"), image, torch.zeros(1), canvas)


# Detection and ID-Distance.


def test_the_bundled_photograph_has_one_face_where_it_is_and_blanks_have_none() -> None:
    photo = photograph()  # 512 x 606; the face lies around (260, 150)
    blanks = [Image.new("RGB", (256, 256), (v, v, v)) for v in (0, 128, 255)]
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3)))
    found = detect_all_faces([photo, *blanks, ramp])
    assert [len(f) for f in found] == [1, 0, 0, 0, 0]
    (box,) = found[0]
    assert box.x < 260 < box.right and box.y < 150 < box.bottom
    assert 0.2 < box.w / photo.width < 0.45 and 0.9 < box.h / box.w < 1.6


def test_the_distance_is_that_of_normalised_vectors() -> None:
    assert face_distance([3, 0], [0, 4]) == pytest.approx(math.sqrt(2))
    assert face_distance([1, 0, 0], [-7, 0, 0]) == pytest.approx(2)
    assert face_distance([1, 1], [5, 0]) == pytest.approx(math.sqrt(2 - math.sqrt(2)))
    assert face_distance([0.2, 0.1], [2, 1]) == pytest.approx(0, abs=1e-12)
    assert cosine([3, 0], [0, 4]) == 0 and cosine([1, 1], [5, 0]) == pytest.approx(math.sqrt(0.5))


def test_id_distance_leaves_undetected_faces_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Embeddings made by hand: the photograph against itself mirrored is 60 degrees away."""
    mirrored = photograph().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    by_hand = {fingerprint(photograph()): [2.0, 0.0], fingerprint(mirrored): [0.5, math.sqrt(0.75)]}
    monkeypatch.setattr(
        faces_module,
        "embed_faces",
        lambda crops, *_: torch.tensor([by_hand[fingerprint(i)] for i, _ in crops]),
    )
    (tmp_path / "weights.pt").write_bytes(b"by hand")
    condition = VisualCondition(photograph())
    box = Box(0, 0, *photograph().size)
    blank = Image.new("RGB", photograph().size, (128, 128, 128))
    metric = Faces(str(tmp_path / "weights.pt"), "cpu", 2)
    rows = metric.measure([sample(i, condition, box) for i in (mirrored, blank, photograph())])
    assert [row["face_detected"] for row in rows] == [True, False, True]
    assert rows[0]["id_distance"] == pytest.approx(1, abs=1e-6)  # a chord of 60 degrees
    assert rows[1]["id_distance"] is None and rows[2]["id_distance"] == pytest.approx(0, abs=1e-6)
    assert mean([row["id_distance"] for row in rows]) == pytest.approx(0.5, abs=1e-6)  # type: ignore[misc]


def test_without_the_weights_nothing_is_measured_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("sow.metrics.faces.WEIGHTS_URL", "http://127.0.0.1:9/weights.pt")
    photo = VisualCondition(photograph())
    for metric in (Faces(None, "cpu", 1), Several({"pixels": Pixels(), "faces": Faces(None, "cpu", 1)})):
        for action in (
            metric.check,
            lambda m=metric: m.measure([sample(photograph(), photo, Box(0, 0, 512, 600))]),
        ):
            with pytest.raises(UserError, match=f"put .* at {tmp_path}/checkpoints/") as error:
                action()
            assert "\n" not in str(error.value)


def test_the_command_line_refuses_before_it_generates(
    command_line: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("sow.metrics.faces.WEIGHTS_URL", "http://127.0.0.1:9/weights.pt")
    result = command_line("model=tiny", "metrics=faces", "tracker=none")
    assert result.status == 1 and f"at {tmp_path}/checkpoints/" in result.err
    assert len(result.err.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.png"))


# The judge on rendered truth.


@cache
def people() -> tuple[Figure, ...]:
    """Whole adults with room below the chin."""
    drawn = (
        figure_of(SEED + i, 43_000_000 + i, age="adult", nobody=False, background=True) for i in range(99)
    )
    whole = (f for f in drawn if f.whole == 1 and f.attributes.style == "photo" and f.face[3] > 30)
    return tuple(next(whole) for _ in range(COUNT))


def judged(pictures: list[Figure], owners: list[Figure]) -> list[dict]:
    """Metrics of pictures whose conditions are the faces of `owners`, at the pictures' own faces."""
    samples = []
    for picture, owner in zip(pictures, owners, strict=True):
        x, y, w, h = (round(v) for v in owner.face)
        mask = Image.fromarray(owner.face_mask[y : y + h, x : x + w].astype(np.uint8) * 255)
        face = VisualCondition(Image.fromarray(owner.image[y : y + h, x : x + w]), mask)
        samples.append(sample(Image.fromarray(picture.image), face, Box.of(picture.face)))
    return PeopleMetrics().measure(samples)


@cache
def whole_rows() -> list[dict]:
    return judged(list(people()), list(people()))


def test_pasted_heads_fail_and_whole_figures_do_not() -> None:
    rng = np.random.default_rng(3)
    empty = figure_of(SEED + 900, None, nobody=True)
    pasted = [(f, made) for f in people() if (made := truncated(rng, f, empty)) is not None]
    assert len(pasted) >= COUNT // 2
    broken = judged([made for _, made in pasted], [owner for owner, _ in pasted])
    assert sum(row["failure"] for row in whole_rows()) <= 1
    assert sum(row["failure"] for row in broken) >= len(broken) - 1


def test_the_same_person_is_nearer_than_another() -> None:
    shifted = list(people()[1:] + people()[:1])
    others = judged(list(people()), shifted)
    nearer = [a["id_distance"] < b["id_distance"] for a, b in zip(whole_rows(), others, strict=True)]
    assert all(nearer) and all(row["same_person"] for row in whole_rows())
    assert sum(row["same_person"] for row in others) <= COUNT // 2
    assert all(row["psnr_condition"] > other["psnr_condition"] for row, other in zip(whole_rows(), others))


# Pixels.


def test_a_seam_along_the_mask_is_seen_where_the_box_shows_none() -> None:
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.float64)
    rows, columns = np.mgrid[0:96, 0:96]
    disc = (rows - 48) ** 2 + (columns - 48) ** 2 < 20**2
    box = Box(16, 16, 64, 64)

    def numbers(picture: np.ndarray) -> tuple[float | None, float | None]:
        image = Image.fromarray(np.repeat(picture.astype(np.uint8)[..., None], 3, 2))
        mask = Image.fromarray(disc[16:80, 16:80].astype(np.uint8) * 255)
        row = Pixels().measure([sample(image, VisualCondition(image.crop((16, 16, 80, 80)), mask), box)])[0]
        return row["boundary"], row["boundary_mask"]  # type: ignore[return-value]

    assert numbers(ramp) == (pytest.approx(1), pytest.approx(1))
    border, outline = numbers(ramp + 20 * disc)
    assert border == pytest.approx(1) and outline == pytest.approx(20, rel=0.1)
    border, outline = numbers(np.where((rows // 16 + columns // 16) % 2, ramp, ramp + 30))
    assert border > 10 and outline < border  # type: ignore[operator]


def test_without_a_mask_the_outline_is_the_box() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    condition = VisualCondition(image.crop((0, 0, 24, 24)))
    inner = Pixels().measure([sample(image, condition, Box(20, 20, 24, 24))])[0]
    assert inner["boundary_mask"] == pytest.approx(inner["boundary"], rel=0.05)
    whole = Pixels().measure([sample(image, condition, Box(0, 0, 64, 64))])[0]
    assert whole["boundary"] is None and whole["boundary_mask"] is None


# Several at once.


def test_columns_of_several_keep_apart_what_has_one_name() -> None:
    class Fixed:
        def __init__(self, **row: float) -> None:
            self.row, self.COLUMNS = row, {name: f"{name} of {value}" for name, value in row.items()}

        def check(self) -> None: ...

        def measure(self, samples: list) -> list[dict]:
            return [dict(self.row) for _ in samples]

    several = Several(
        {"judge": Fixed(id_distance=1.0, failure=0.0), "faces": Fixed(id_distance=2.0, face=1.0)}
    )
    assert isinstance(several, Metrics)
    row = {"id_distance": 1.0, "failure": 0.0, "faces_id_distance": 2.0, "face": 1.0}
    assert several.measure([None, None]) == [row, row]  # type: ignore[list-item]
    assert (
        columns(several).keys() == row.keys()
        and columns(several)["faces_id_distance"] == "id_distance of 2.0"
    )
    with pytest.raises(UserError, match="metrics.parts"):
        Several({})


def test_all_and_photos_compose_from_the_options() -> None:
    every = compose(["model=tiny", "metrics=all", "metrics.parts.faces.batch_size=3"]).metrics
    assert list(every.parts) == ["people", "faces", "clip"] and every.parts["faces"].batch_size == 3
    photos = compose(["model=tiny", "metrics=photos", "~metrics.parts.clip"]).metrics
    assert list(photos.parts) == ["faces", "pixels"]
    assert "psnr_condition" in columns(photos) and "failure" not in columns(photos)
    with pytest.raises(UserError, match="metrics.parts.faces.sise"):
        compose(["model=tiny", "metrics=all", "+metrics.parts.faces.sise=3"])


def test_every_column_is_explained() -> None:
    assert set(whole_rows()[0]) == set(PeopleMetrics.COLUMNS)
    pixels = Pixels().measure([sample(photograph(), VisualCondition(photograph()), Box(0, 0, 512, 600))])
    assert set(pixels[0]) == set(Pixels.COLUMNS)
    assert columns(NoMetrics()) == {}


# What is remembered.


def test_images_are_known_by_their_pixels() -> None:
    image = photograph().crop((200, 100, 264, 164))
    assert fingerprint(image) == fingerprint(image.copy())
    changed = image.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    keys = {fingerprint(i) for i in (image, changed, image.convert("L"), image.resize((32, 128)))}
    assert len(keys) == 4


def test_metrics_from_memory_are_those_just_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time neither network is called, and every number is the same to the last bit."""
    pictures, owners = list(people()[:2]), list(people()[:2])
    fresh = judged(pictures, owners)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("sow.metrics.faces._detect", never)
    monkeypatch.setattr("sow.people.judge.reader.Judge._read", never)
    assert judged(pictures, owners) == fresh
    with pytest.raises(AssertionError, match="computed again"):
        kept_faces([Image.new("RGB", (64, 64), (1, 2, 3))])
    with pytest.raises(AssertionError, match="computed again"):
        readings([Image.fromarray(people()[0].image)], [Box(1, 1, 9, 9)])
