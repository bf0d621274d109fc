"""Calibration of the judge on held-out renders, and its errors on others: identities and seeds never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sow.people.captions.attributes import PERSON_FIELDS, VOCABULARY
from sow.people.judge.composites import Figure, disturbed, doubled, truncated
from sow.people.judge.composites import degraded as degrade
from sow.people.judge.crops import iou
from sow.people.judge.network import JudgeNetwork
from sow.people.judge.reader import Calibration, Judge
from sow.people.judge.redrawn import generated_look
from sow.people.judge.samples import (
    CALIBRATION_SEED,
    EVALUATION_SEED,
    HELD_OUT_IDENTITY,
    Batch,
    batch_of,
    figure_of,
    readable,
)
from sow.types import Box

Array = NDArray[np.float64]
_TEMPERATURES = np.exp(np.linspace(np.log(0.3), np.log(4.0), 60))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pictures never trained on: renders as they come, identities twice, whole and truncated outlines, second faces, close-ups,
    and pictures of one and of two faces that the embedded model has redrawn."""

    renders: list[Figure]
    pairs: list[Figure]
    whole: list[Figure]
    truncated: list[Figure]
    doubled: list[Figure]
    closeups: list[Figure]
    redrawn: list[Figure]

    @classmethod
    def draw(cls, first_seed: int, count: int) -> HeldOut:
        """`count` renders, count / 2 identities twice, count / 2 outlines of each kind, count / 2 second faces, count / 10 close-ups,
        and at most count / 2 that the embedded model has redrawn."""
        rng = np.random.default_rng([first_seed, 3])
        base = HELD_OUT_IDENTITY + (first_seed % 1_000_000_007) * 7
        seeds = iter(range(first_seed, first_seed + 10 * count))
        renders = [figure_of(next(seeds), base + i, background=i % 2 == 0) for i in range(count)]
        pairs = []
        for i in range(count // 2):
            age = VOCABULARY["age"][i % 3]
            pairs += [figure_of(next(seeds), base + count + i, age=age, nobody=False) for _ in range(2)]
        framings = ("closeup", "gray")
        closeups = [
            figure_of(next(seeds), base + 2 * count + i, framings[i % 2]) for i in range(max(2, count // 10))
        ]
        people = [f for f in renders if f.face is not None]
        empty = [f for f in renders if f.face is None]
        empty += [figure_of(next(seeds), None, nobody=True) for _ in range(max(4, count // 10))]
        whole = [f for f in people if f.whole == 1][: count // 2]
        whole = [
            disturbed(rng, f, people[int(rng.integers(len(people)))]) if i % 3 == 0 else f
            for i, f in enumerate(whole)
        ]
        broken: list[Figure] = []
        while len(broken) < count // 2:
            donor = people[int(rng.integers(len(people)))]
            others = empty if rng.random() < 0.6 else people
            made = truncated(rng, donor, others[int(rng.integers(len(others)))])
            if made is not None:
                broken.append(made)
        shown = [f for f in people if f.framing == "scene"]
        more = [
            doubled(rng, shown[i % len(shown)], shown[int(rng.integers(len(shown)))])
            for i in range(count // 2)
        ]
        again: list[Figure] = []
        for start in range(0, min(count // 2, len(shown)), 8):
            again += generated_look(rng, shown[start : start + 8])
        return cls(renders, pairs, whole, broken, more, closeups, again)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least cross entropy; logits (n, k) with labels (n,), or logits (n,) with labels 0 and 1."""
    known = labels >= 0
    if not bool(known.any()):
        return 1.0
    logits, labels = logits[known], labels[known]

    def loss(t: float) -> float:
        if logits.ndim == 1:
            return float(F.binary_cross_entropy_with_logits(logits / t, labels.float()))
        return float(F.cross_entropy(logits / t, labels))

    return float(min(_TEMPERATURES, key=loss))


def best_threshold(positive: Array, negative: Array) -> float:
    """The probability that best separates two samples (largest mean of both accuracies), midway between neighbours."""
    values = np.unique(np.concatenate([positive, negative]))
    cuts = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    right = (positive[None] >= cuts[:, None]).mean(1) + (negative[None] < cuts[:, None]).mean(1)
    return float(np.median(cuts[right == right.max()]))


def verification(same: Array, different: Array) -> tuple[float, float, float]:
    """ROC-AUC of distances (smaller = same person), equal error rate, and the distance where both errors are equal."""
    pooled = np.concatenate([same, different])
    order = np.argsort(pooled, kind="stable")
    rank = np.empty(len(pooled))
    rank[order] = np.arange(1, len(pooled) + 1)
    auc = 1 - (rank[: len(same)].sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(different))
    cuts = np.quantile(pooled, np.linspace(0, 1, 4001))
    missed = 1 - np.searchsorted(np.sort(same), cuts, side="right") / len(same)
    wrong = np.searchsorted(np.sort(different), cuts, side="right") / len(different)
    at = int(np.argmin(np.abs(missed - wrong)))
    return float(auc), float((missed[at] + wrong[at]) / 2), float(cuts[at])


def pair_distances(embeddings: Array) -> tuple[Array, Array]:
    """Distances between views 2i and 2i + 1 (same person), and between all other views (different people)."""
    similarity = embeddings @ embeddings.T
    distance = np.sqrt(np.clip(2 - 2 * similarity, 0, None))
    n = len(embeddings) // 2
    same = distance[np.arange(0, 2 * n, 2), np.arange(1, 2 * n, 2)]
    person = np.arange(2 * n) // 2
    return same, distance[np.triu(person[:, None] != person[None, :], 1)]


@torch.no_grad()
def outputs(network: JudgeNetwork, figures: list[Figure]) -> tuple[dict[str, Tensor], list[Batch]]:
    """All heads of the network on undamaged figures with their true boxes, concatenated, and the labelled batches."""
    network.eval()
    columns: dict[str, list[Tensor]] = {}
    batches = []
    for start in range(0, len(figures), 64):
        batch = batch_of(figures[start : start + 64], None)
        scene, second, grid = network.forward_scene(batch.pictures)
        values = {**scene, "second": second, "face": grid[:, 0].flatten(1).amax(1)}
        if len(batch.rows):
            close, embedding = network.forward_close(batch.close)
            figure, whole = network.forward_figure(batch.figure)
            values.update(close, **figure, whole=whole, embedding=embedding)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
        batches.append(batch)
    return {name: torch.cat(parts) for name, parts in columns.items()}, batches


def calibrate(network: JudgeNetwork, count: int) -> Calibration:
    """Temperatures and thresholds from `count` held-out renders and what is made of them (half of them softened)."""
    held = HeldOut.draw(CALIBRATION_SEED, count)
    network.eval()
    found, batches = outputs(network, held.renders)
    temperatures: dict[str, float] = {}
    for name in VOCABULARY:
        source = next(
            k for k in ("scene_labels", "close_labels", "figure_labels") if name in getattr(batches[0], k)
        )
        labels = torch.cat([getattr(b, source)[name] for b in batches])
        temperatures[name] = best_temperature(found[name], labels)
    present = torch.tensor([int(f.face is not None) for f in held.renders])
    temperatures["face"] = best_temperature(found["face"], present)
    outlines, marks = outputs(network, held.whole + held.truncated)
    truth = torch.cat([b.whole for b in marks])
    temperatures["whole"] = best_temperature(outlines["whole"], truth)
    single = [f for f in held.renders if f.face is not None]
    count_of, more = outputs(network, single + held.doubled + held.redrawn)
    doubles = torch.cat([b.second for b in more])
    temperatures["second"] = best_temperature(count_of["second"], doubles)
    face = torch.sigmoid(found["face"] / temperatures["face"]).double().numpy()
    joined = torch.sigmoid(outlines["whole"] / temperatures["whole"]).double().numpy()
    pairs, _ = outputs(network, held.pairs)
    _, _, same_person = verification(*pair_distances(pairs["embedding"].double().numpy()))
    is_face, is_whole = present.numpy() == 1, truth.numpy() == 1
    return Calibration(
        {n: round(t, 4) for n, t in temperatures.items()},
        face=round(best_threshold(face[is_face], face[~is_face]), 4),
        whole=round(best_threshold(joined[is_whole], joined[~is_whole]), 4),
        # Not where renders are told apart best: the cut there, about .1, calls one drawn badly two.
        second=0.5,
        same_person=round(same_person, 4),
    )


def evaluate(judge: Judge, count: int) -> dict[str, Any]:
    """Errors on `count` held-out renders and what is made of them, clean and softened (`degraded`), as plain numbers."""
    held = HeldOut.draw(EVALUATION_SEED, count)
    report: dict[str, Any] = {"renders": count}
    for name in ("clean", "softened"):
        rng = None if name == "clean" else np.random.default_rng(5)
        report[name] = {
            **_faces(judge, held.renders, rng),
            **_identities(judge, held.pairs, rng),
            **_outlines(judge, held, rng),
            **_counts(judge, [f for f in held.renders if f.face is not None], held.doubled, rng),
        }
    report["closeups"] = _faces(judge, held.closeups, None)
    one, two = ([f for f in held.redrawn if f.second == second] for second in (False, True))
    report["redrawn"] = _counts(judge, one, two, None)
    return report


def _images(figures: list[Figure], rng: np.random.Generator | None) -> list[NDArray[np.uint8]]:
    return [f.image if rng is None else degrade(rng, f.image) for f in figures]


def _faces(judge: Judge, figures: list[Figure], rng: np.random.Generator | None) -> dict[str, Any]:
    """Detection and attributes, read without given boxes; a missed face makes all its attributes wrong."""
    readings = judge.read(_images(figures, rng))
    people = [(f, r) for f, r in zip(figures, readings, strict=True) if f.face is not None]
    overlaps = [
        float(iou(np.array(r.face_box.as_list(), float), f.face_shown)) if r.face_box is not None else 0.0
        for f, r in people
    ]
    nobody = [r for f, r in zip(figures, readings, strict=True) if f.face is None]
    shown: dict[str, list[bool]] = {n: [] for n in VOCABULARY}
    visible: dict[str, list[bool]] = {n: [] for n in VOCABULARY}
    for f, r in zip(figures, readings, strict=True):
        labels = readable(f)
        for n, index in f.attributes.indices().items():
            if index < 0 or (n in PERSON_FIELDS and f.face is None):
                continue
            right = r.attributes.get(n) == VOCABULARY[n][index]
            shown[n].append(right)
            if labels[n] >= 0:
                visible[n].append(right)
    per = {n: round(float(np.mean(v)), 4) for n, v in visible.items() if v}
    out: dict[str, Any] = {
        "face_found": round(float(np.mean([r.face_box is not None for _, r in people])), 4),
        "box_iou_mean": round(float(np.mean(overlaps)), 4),
        "box_iou_over_half": round(float(np.mean(np.array(overlaps) >= 0.5)), 4),
        "attributes": per,
        "attributes_mean": round(float(np.mean(list(per.values()))), 4),
        "attributes_mean_hidden_too": round(float(np.mean([np.mean(v) for v in shown.values() if v])), 4),
    }
    if nobody:
        out["nobody_called_nobody"] = round(float(np.mean([r.face_box is None for r in nobody])), 4)
    return out


def _identities(judge: Judge, figures: list[Figure], rng: np.random.Generator | None) -> dict[str, float]:
    """Verification with the judge's own boxes; a missed face is read at its true box."""
    readings = judge.read(_images(figures, rng))
    missed = [i for i, r in enumerate(readings) if r.face_box is None]
    again = judge.read(
        [figures[i].image for i in missed], [Box.of(figures[i].face_shown.tolist()) for i in missed]
    )
    for i, reading in zip(missed, again, strict=True):
        readings[i] = reading
    same, different = pair_distances(np.stack([r.embedding for r in readings]).astype(np.float64))
    auc, error, _ = verification(same, different)
    at = judge.calibration.same_person
    return {
        "identity_auc": round(auc, 4),
        "identity_equal_error": round(error, 4),
        "identity_same_accepted": round(float((same <= at).mean()), 4),
        "identity_different_rejected": round(float((different > at).mean()), 4),
    }


def _outlines(judge: Judge, held: HeldOut, rng: np.random.Generator | None) -> dict[str, float]:
    """Whole against truncated outlines, read at the true box of the head in question."""
    rates = []
    for figures, whole in ((held.whole, True), (held.truncated, False)):
        boxes = [Box.of(f.face_shown.tolist()) for f in figures]
        readings = judge.read(_images(figures, rng), boxes)
        rates.append(float(np.mean([(r.whole >= judge.calibration.whole) == whole for r in readings])))
    return {
        "whole_called_whole": round(rates[0], 4),
        "truncated_called_truncated": round(rates[1], 4),
        "outline_accuracy": round(sum(rates) / 2, 4),
    }


def _counts(
    judge: Judge, one: list[Figure], two: list[Figure], rng: np.random.Generator | None
) -> dict[str, float]:
    """Pictures of one face against those of a second one, whole or in part; a rate is left out where there are none."""
    out = {}
    for name, figures, second in (("one_face_called_one", one, False), ("second_face_found", two, True)):
        if figures:
            right = [(r.faces > 1) == second for r in judge.read(_images(figures, rng))]
            out[name] = round(float(np.mean(right)), 4)
    return out
