"""The last step of a training: the identity embedding as the linear discriminant of the close trunk's features.

Notation
    f_ij    features of view j of person i          m, m_i   mean of all features, of one person's
    S_w     mean over people of (f - m_i)(f - m_i)'  S_b      covariance of the m_i
    W       S_w^-1/2 U, U the leading eigenvectors of S_w^-1/2 S_b S_w^-1/2 with eigenvalues l
    z       diag(l / (1 + l))^1/2 W' (f - m), then scaled to unit length
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sow.people.judge.network import EMBEDDING, JudgeNetwork
from sow.people.judge.samples import TRAINING_SEED, batch_of, figure_of

_FIRST = TRAINING_SEED + 150_000_000  # apart from the seeds of the pools
_RIDGE = 0.02  # of the mean variance, added to S_w


def discriminant(features: NDArray[np.float64], person: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Weights (64, d) and bias (64,) of z for features (n, d) whose people are numbered 0, 1, ... in `person`."""
    count = np.bincount(person).astype(float)
    means = np.stack([np.bincount(person, column) for column in features.T], 1) / count[:, None]
    within = np.cov((features - means[person]).T, bias=True) * len(person) / (len(person) - len(count))
    within += _RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    # Means of few views still carry S_w / views of within-person scatter.
    between = np.cov(means.T) - within / count.mean()
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(values) @ vectors.T
    strength, directions = np.linalg.eigh(whiten @ between @ whiten)
    best = np.argsort(strength)[::-1][:EMBEDDING]
    ratio = np.clip(strength[best], 0, None)
    weights = np.sqrt(ratio / (1 + ratio))[:, None] * (whiten @ directions[:, best]).T
    return weights, -weights @ features.mean(0)


@torch.no_grad()
def fit_embedding(network: JudgeNetwork, people: int, views: int) -> None:
    """Set the embedding's weights from `people` training identities in `views` pictures each, damaged and jittered."""
    network.eval()
    rng = np.random.default_rng(29)
    features, person = [], []
    for start in range(0, people, 64):
        block = range(start, min(people, start + 64))
        figures = []
        for i in block:
            identity, age = int(rng.integers(0, 20_000_000)), str(rng.choice(("child", "adult", "old")))
            for j in range(views):
                seed = _FIRST + i * views + j
                framing = ("closeup", "gray", "scene", "scene")[int(rng.integers(4))]
                fixed = age if rng.random() < 0.7 else None
                figures.append(figure_of(seed, identity, framing, fixed, False, large=rng.random() < 0.4))
                person.append(i)
        features.append(network.describe_close(batch_of(figures, rng, 0.05).close).double().numpy())
    weights, bias = discriminant(np.concatenate(features), np.array(person))
    network.embedding.weight.copy_(torch.from_numpy(weights))
    network.embedding.bias.copy_(torch.from_numpy(bias))
