"""Change points are found where they were put, and a cycle made of them is one that the method accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sow import compose
from sow.dynamics import measured
from sow.dynamics.regimes import Curve, candidates, change_points, left_over, ramp, regimes, suggest
from sow.errors import UserError
from sow.report.statistics import Resampling

HOW = Resampling(0.95, 100, 3)
NOISE = np.linspace(0, 1, 41)
PAIRS = candidates(40, 0.1)


def curve(a: float, b: float, noise: float = 0.0, units: int = 6, seed: int = 0, name: str = "c") -> Curve:
    rng = np.random.default_rng(seed)
    return Curve(name, NOISE, 3 + 5 * ramp(NOISE, a, b) + noise * rng.standard_normal((units, len(NOISE))))


@pytest.mark.parametrize("a, b", [(0.3, 0.6), (0.5, 0.7), (0.1, 0.9), (0.0, 0.4)])
def test_change_points_are_found_where_they_were_put(a: float, b: float) -> None:
    assert change_points([(NOISE, curve(a, b).mean())], PAIRS) == pytest.approx((a, b))


def test_intervals_hold_the_truth_and_shrink_with_the_noise() -> None:
    wide, narrow = (
        regimes([curve(0.4, 0.7, s, name="x"), curve(0.4, 0.7, s, seed=1, name="y")], 40, 0.1, HOW)
        for s in (1.5, 0.1)
    )
    for found in (wide, narrow):
        assert found.a_interval[0] <= 0.4 <= found.a_interval[1] + 1e-9
        assert found.b_interval[0] <= 0.7 <= found.b_interval[1] + 1e-9
    assert np.ptp(narrow.a_interval) <= np.ptp(wide.a_interval)
    assert narrow.explained["x"] > 0.99


def test_the_scale_of_a_curve_does_not_count() -> None:
    steady, other = curve(0.2, 0.4), ramp(NOISE, 0.6, 0.8)
    small, large = (Curve("o", NOISE, scale * other[None]) for scale in (1e-4, 1e4))
    found = [change_points([(c.noise, c.mean()) for c in (steady, o)], PAIRS) for o in (small, large)]
    assert found[0] == found[1]


def test_what_is_left_is_what_least_squares_leaves() -> None:
    y = curve(0.3, 0.7, 0.8).mean()
    pairs = np.array([[0.3, 0.7], [0.1, 0.4], [0.8, 0.9]])
    for pair, got in zip(pairs, left_over(NOISE, y, pairs), strict=True):
        r = ramp(NOISE, *pair)
        design = np.stack([1 - r, r], axis=1)
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        assert got == pytest.approx((residual**2).sum() / ((y - y.mean()) ** 2).sum())


def test_a_falling_curve_is_not_explained_and_a_flat_one_is_refused() -> None:
    falling = curve(0.3, 0.6).mean()[::-1]
    assert left_over(NOISE, falling, np.array([[0.4, 0.7]])) == pytest.approx(1.0)
    with pytest.raises(UserError, match="no regimes"):
        change_points([(NOISE, Curve("f", NOISE, np.ones((2, 41))).mean())], PAIRS)


def test_every_suggestion_is_a_cycle_the_method_takes() -> None:
    default = compose(["model=tiny"])
    for a in np.linspace(0, 1, 11):
        for b in np.linspace(0, 1, 11):
            found = suggest(float(a), float(b), 5, 7, 10)
            cycle = replace(default.cycle, t1=found.t1, t2=found.t2, cycles=found.cycles)
            assert cycle.resolve(10) == (found.t1, found.t2)
            assert all(0 < t3 < found.t1 for t3 in default.preservation.resolve(cycle, 10))
            assert abs(found.cycles * (found.t2 - found.t1) - 20) <= (found.t2 - found.t1) / 2
    assert suggest(0.5, 0.7, 5, 7, 10).words == ["cycle.t1=5", "cycle.t2=7", "cycle.cycles=10"]
    assert suggest(0.4, 0.8, 5, 7, 10).cycles == 5


def test_a_suggestion_is_an_option_of_the_cycle_group() -> None:
    from omegaconf import OmegaConf

    node = OmegaConf.create(suggest(0.4, 0.8, 5, 7, 10).yaml("found"))
    assert dict(node) == {"defaults": ["cyclic"], "t1": 4, "t2": 8, "cycles": 5}


def test_curves_of_finished_studies_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "seed": 0, "start": s, "stop": s - 4, "noise": s / 40, "effect": e, "text": None}
        for p, scale in (("a", 1.0), ("b", 3.0))
        for s, e in ((40, 9 * scale), (20, 5 * scale), (4, 1 * scale))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "text_sensitivity.parquet")
    merged = [
        {"k": k, "noise": k / 10, "row": row, "layout": "top_bottom", "contrast_kept": kept}
        for row in ("unprocessed", "enhanced")
        for k, kept in ((0, 1.0), (10, 0.1))
    ]
    pd.DataFrame(merged).to_parquet(tmp_path / "diffusion_in_diffusion.parquet")
    found = measured.read([str(tmp_path)])
    text = found["text_sensitivity"]
    assert text.noise.tolist() == pytest.approx([0.05, 0.45, 0.95])
    assert text.values.tolist() == [[1, 5, 9], [3, 15, 27]]
    halves = found["diffusion_in_diffusion"]
    assert halves.values.tolist() == [[-1.0, -0.1]] and halves.mean().tolist() == [0, 1]
    with pytest.raises(UserError, match=r"study\.runs"):
        measured.read([str(tmp_path / "nothing")])
