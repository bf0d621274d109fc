"""The judge: geometry of its inputs, its composites, its training at toy size, and the shipped weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sow.errors import UserError
from sow.people.captions.attributes import VOCABULARY
from sow.people.judge import Calibration, Judge, load_judge
from sow.people.judge.composites import disturbed, doubled, misdrawn, truncated
from sow.people.judge.crops import CLOSE, FIGURE, crop, iou, letterbox, to_tensor
from sow.people.judge.evaluation import best_temperature, best_threshold, pair_distances, verification
from sow.people.judge.network import CROP, SIDE, JudgeNetwork, parameters, strongest_face
from sow.people.judge.reader import WEIGHTS, save_judge
from sow.people.judge.redrawn import redrawn, remaining
from sow.people.judge.samples import Pool, batch_of, figure_of, grid_targets, readable
from sow.people.judge.training import Recipe, Trainer
from sow.types import Box

TOY = Recipe(
    pairs=2, broken=1, empty=1, redrawn=0, identities=3, views=2, scenes=2, refresh=1,
    learning_rate=1e-3, weight_decay=0.0,
    warmup=1, average=0.9, scene_share=0.5, queue=16, contrast=0.1,
)  # fmt: skip
SEED = 3_450_000_000  # apart from training, calibration and evaluation


@cache
def people(count: int = 6) -> tuple:
    return tuple(figure_of(SEED + i, 40_000_000 + i, nobody=False, background=True) for i in range(count))


@cache
def network() -> JudgeNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return JudgeNetwork().eval()


def test_the_network_fits_its_budget() -> None:
    assert parameters(network()) < 2_500_000
    assert WEIGHTS.stat().st_size < 5 * 2**20


def test_a_second_face_overlaps_the_first_and_hides_what_it_shows() -> None:
    figure, other = people()[:2]
    rng = np.random.default_rng(0)
    for _ in range(12):
        made = doubled(rng, figure, other)
        assert made.second and not figure.second and made.whole == figure.whole
        changed = np.abs(made.image.astype(int) - figure.image).max(-1) > 8
        x, y, w, h = (int(v) for v in figure.face_shown)
        assert changed.any() and not changed[:, : max(0, x - 2 * w)].any()
        assert readable(made)["expression"] == -1 and readable(made)["clothing"] >= 0
    batch = batch_of([figure, made], None)
    assert batch.second.tolist() == [0.0, 1.0] and batch.identity.tolist() == [figure.identity, -1]


def test_crops_are_centred_and_mark_what_lies_outside() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[40:60, 40:60] = 255
    view = crop(image, np.array([40.0, 40.0, 20.0, 20.0]), CLOSE)
    assert view.shape == (CROP, CROP, 4) and view[..., 3].min() == 255
    rows, columns = np.nonzero(view[..., 0] > 127)
    size = CROP / CLOSE[0]
    assert abs(columns.mean() - CROP / 2) < 1.5 and abs(rows.mean() - (CROP / 2 - CLOSE[1] * size)) < 2.5
    assert abs((rows.max() - rows.min() + 1) - size) < 3
    corner = crop(image, np.array([-4.0, 100.0, 40.0, 40.0]), FIGURE)
    assert corner[-1, :, 3].max() == 0 and corner[0, -1, 3] == 255


def test_letterbox_keeps_the_aspect_and_fills_with_gray() -> None:
    image = np.full((50, 100, 3), 200, np.uint8)
    square, scale, (x, y) = letterbox(image)
    assert square.shape == (SIDE, SIDE, 3) and scale == SIDE / 100 and (x, y) == (0, 32)
    assert (square[:32] == 128).all() and (square[32:96] == 200).all()


def test_the_grid_decodes_to_the_box_it_was_made_from() -> None:
    figures = [f for f in people() if f.face is not None]
    target, mask = grid_targets(figures)
    _, boxes = strongest_face(target)
    overlap = iou(boxes.numpy() * SIDE, np.stack([f.face for f in figures]))
    assert overlap.min() > 0.99 and bool(mask.any(2).any(1).all())


def test_truncated_outlines_lose_the_torso_and_whole_ones_keep_it() -> None:
    rng = np.random.default_rng(0)
    empty = figure_of(SEED + 99, None, nobody=True)
    made = [truncated(rng, f, empty) for f in people() for _ in range(6)]
    broken = [m for m in made if m is not None]
    assert len(broken) > 12
    for m in broken:
        assert m.whole == 0 and not m.clothed and m.body is None
        x, y, w, h = m.faces[0]
        assert y + h < SIDE  # something below the chin is left to look at
        assert readable(m)["clothing"] == -1
    whole = [disturbed(rng, f, people()[i - 1]) for i, f in enumerate(people()) if f.whole == 1]
    assert whole and all(f.whole == 1 and f.body is not None for f in whole)


def test_the_pool_is_deterministic_and_its_batches_are_labelled() -> None:
    a, b = (Pool(3, 8, 2, 2) for _ in range(2))
    fa, fb = a.figures(2, 1, 1), b.figures(2, 1, 1)
    assert all(np.array_equal(x.image, y.image) for x, y in zip(fa, fb, strict=True))
    batch = batch_of(fa, a.rng)
    assert batch.pictures.shape == (6, 3, SIDE, SIDE) and batch.close.shape == (5, 4, CROP, CROP)
    assert batch.identity[0] == batch.identity[1] or (batch.identity < 20_000_000).all()
    assert batch.whole[-1] == 0 and set(batch.whole.tolist()) <= {-1, 0, 1}
    assert len({x.image.tobytes() for x in fa}) == len(fa)


def test_a_badly_drawn_face_is_one_and_says_nothing_of_its_person() -> None:
    rng = np.random.default_rng(1)
    for figure in people():
        made = misdrawn(rng, figure)
        assert not made.second and len(made.faces) == 1
        labels = readable(made)
        assert labels["expression"] == -1 and labels["scene"] == readable(figure)["scene"]
        x, y, w, h = (int(v) for v in figure.face_shown)
        outside = np.ones(made.image.shape[:2], bool)
        outside[max(0, y - h // 4) : y + h + h // 4, max(0, x - w // 4) : x + w + w // 4] = False
        assert np.array_equal(made.image[outside], figure.image[outside])
    assert int(batch_of([made], None).identity[0]) == -1


def test_the_model_redraws_pictures_and_its_pixels_say_what_is_left() -> None:
    rng = np.random.default_rng(2)
    first, second = redrawn(rng, list(people()[:2]))
    for before, after in zip(people(), (first, second), strict=False):
        error = np.abs(after.image.astype(int) - before.image).mean()
        assert 0 < error < 40 and after.misdrawn and after.whole == -1
    image = people()[0].image
    added = doubled(rng, people()[0], people()[1]).image
    assert remaining(image, added, added) == 1 and remaining(image, added, image) == 0
    between = ((image.astype(int) + added) // 2).astype(np.uint8)
    assert 0.4 < remaining(image, added, between) < 0.6
    pool = Pool(3, 8, 2, 2, redrawn=4)
    pool.refresh(0, 0)
    one, two = (len(members) for members in pool.redrawn)
    assert 0 < one + two <= 8
    found = pool.figures(2, 1, 1, redrawn=4)
    assert sum(f.misdrawn and f.whole == -1 for f in found) <= 4 and len(found) > 6


def test_two_steps_train_and_a_training_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    trainer = Trainer(TOY, 0, tmp_path)
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    batches = trainer.batches()
    for _ in range(2):
        terms = trainer.train_step(next(batches), 0.0)
        assert all(np.isfinite(v) for v in terms.values())
    moved = [n for n, p in trainer.network.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(before)
    trainer.save()
    again = Trainer(TOY, 0, tmp_path)
    assert again.step == 2
    for ours, theirs in zip(
        trainer.average.state_dict().values(), again.average.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_weights_survive_the_file_and_reading_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    calibration = Calibration({"scene": 1.5}, face=0.0, whole=0.3, same_person=0.8)
    path = tmp_path / "w.safetensors"
    save_judge(path, network(), calibration, {})
    loaded = load_judge(path)
    assert loaded.calibration == calibration
    images = [f.image for f in people()]
    ours, theirs = Judge(network(), calibration).read(images), loaded.read(images)
    for a, b in zip(ours, theirs, strict=True):
        assert abs(a.face - b.face) < 0.02 and np.abs(a.embedding - b.embedding).max() < 0.05
    alone = loaded.read(images[2:3])[0]
    assert (
        np.allclose(alone.embedding, theirs[2].embedding, atol=1e-5) and alone.face_box == theirs[2].face_box
    )


def test_readings_are_in_the_pixels_of_the_picture_and_given_boxes_are_kept() -> None:
    judge = Judge(network(), Calibration({}, face=0.0))
    picture = Image.fromarray(people()[0].image).resize((256, 200))
    reading = judge.read([picture])[0]
    assert reading.face_box is None or reading.face_box.inside(256, 200)
    given = Box(40, 30, 60, 66)
    assert judge.read([picture], [given])[0].face_box == given
    assert abs(np.linalg.norm(reading.embedding) - 1) < 1e-5
    assert set(reading.attributes) == set(VOCABULARY) == set(reading.confidence)
    blind = Judge(network(), Calibration({}, face=1.1)).read([picture])[0]
    assert blind.face_box is None and np.isnan(blind.whole) and "expression" not in blind.attributes
    with pytest.raises(ValueError, match="boxes"):
        judge.read([picture], [])


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train_judge"):
        load_judge(tmp_path / "nothing.safetensors")


def test_calibration_recovers_a_known_temperature_threshold_and_auc() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (20000, 4)))
    gumbel = -np.log(-np.log(rng.uniform(size=(20000, 4))))
    labels = torch.from_numpy((logits.numpy() + gumbel).argmax(1))
    assert abs(best_temperature(3 * logits, labels) - 3) < 0.2
    assert 0.4 < best_threshold(np.array([0.6, 0.7, 0.9]), np.array([0.1, 0.4, 0.2])) < 0.6
    auc, error, cut = verification(np.array([0.1, 0.2, 0.3]), np.array([0.9, 1.0, 1.1]))
    assert auc == 1 and error == 0 and 0.3 <= cut < 0.9
    same, different = rng.normal(0.5, 0.1, 4000), rng.normal(0.5, 0.1, 4000)
    assert abs(verification(same, different)[0] - 0.5) < 0.02
    unit = np.eye(4)[[0, 0, 1, 1]]
    near, far = pair_distances(unit)
    assert np.allclose(near, 0) and np.allclose(far, np.sqrt(2)) and len(far) == 4


def test_the_shipped_judge_reads_held_out_renders() -> None:
    judge = load_judge()
    figures = [figure_of(SEED + 1000 + i, 41_000_000 + i, background=True) for i in range(80)]
    readings = judge.read([f.image for f in figures])
    assert (
        np.mean(
            [(r.face_box is not None) == (f.face is not None) for f, r in zip(figures, readings, strict=True)]
        )
        > 0.96
    )
    right = [
        r.attributes.get(n) == VOCABULARY[n][k]
        for f, r in zip(figures, readings, strict=True)
        for n, k in readable(f).items()
        if k >= 0
    ]
    assert np.mean(right) > 0.93
    rng = np.random.default_rng(4)
    empty = [f for f in figures if f.face is None]
    whole = [f for f in figures if f.whole == 1]
    broken = [m for i, f in enumerate(whole) if (m := truncated(rng, f, empty[i % len(empty)])) is not None]
    for group, kept in ((whole, True), (broken, False)):
        read = judge.read([f.image for f in group], [Box.of(f.face) for f in group])
        assert np.mean([(r.whole >= judge.calibration.whole) == kept for r in read]) > 0.93


def test_the_shipped_judge_knows_people_again() -> None:
    judge = load_judge()
    views = [figure_of(SEED + 2000 + i, 42_000_000 + i // 2, age="adult", nobody=False) for i in range(80)]
    readings = judge.read([f.image for f in views], [Box.of(f.face) for f in views])
    same, different = pair_distances(np.stack([r.embedding for r in readings]).astype(float))
    assert verification(same, different)[0] > 0.9


def test_inputs_are_scaled_to_minus_one_and_one() -> None:
    low, high = to_tensor([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    assert low.min() == -1 and high.max() == 1
