"""Change points are found where they were put, and a cycle made of them is one that the method accepts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sow import compose
from sow.dynamics import measured
from sow.dynamics.regimes import (
    Curve,
    candidates,
    change_points,
    elsewhere,
    left_over,
    propose,
    ramp,
    regimes,
)
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


STATES = [6.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]  # log SNR of x_0 .. x_10


def test_every_proposal_is_a_cycle_the_method_takes() -> None:
    default = compose(["model=tiny"])
    for noisy in np.linspace(-7, 7, 9):
        for clean in np.linspace(noisy + 0.1, 8, 5):
            found = propose([(noisy, clean)], STATES, 20)
            for one in (found, *elsewhere(found, 20)):
                cycle = replace(default.cycle, t1=one.t1, t2=one.t2, cycles=one.cycles)
                kept = replace(default.preservation, t3=list(one.t3))
                assert cycle.resolve(10) == (one.t1, one.t2)
                assert kept.resolve(cycle, 10) == one.t3 and one.t3
                assert one.t2 - one.t1 == found.t2 - found.t1
                assert abs(one.cycles * (one.t2 - one.t1) - 20) <= (one.t2 - one.t1) / 2
            assert found not in elsewhere(found, 20)


def test_the_rule_takes_medians_and_the_last_end() -> None:
    nan = float("nan")
    windows = [(-4, -1), (-2, 0), (-3, 2), (nan, nan)]
    found = propose(windows, STATES, 20)
    assert (found.t1, found.t2, found.t3, found.cycles) == (4, 7, (3, 2), 7)
    assert found.words[1:3] == ["cycle.t1=4", "cycle.t2=7"] and found.words[-1] == "preservation.t3=[3,2]"
    assert elsewhere(found, 20)[0].t3 == (1,)
    with pytest.raises(UserError, match="no measure has a window"):
        propose([(nan, nan)], STATES, 20)


def test_a_suggestion_is_an_option_of_the_cycle_group() -> None:
    from omegaconf import OmegaConf

    node = OmegaConf.create(propose([(-4, 0)], STATES, 20).yaml("found"))
    assert dict(node) == {"defaults": ["cyclic"], "unit": "steps", "t1": 4, "t2": 8, "cycles": 5}


def test_curves_of_finished_studies_are_read() -> None:
    rows = [
        {"prompt": p, "seed": 0, "start": s, "stop": s - 4, "noise": s / 40, "effect": e, "text": None}
        for p, scale in (("a", 1.0), ("b", 3.0))
        for s, e in ((40, 9 * scale), (20, 5 * scale), (4, 1 * scale))
    ]
    merged = [
        {"k": k, "noise": k / 10, "row": row, "layout": "top_bottom", "contrast_kept": kept}
        for row in ("unprocessed", "enhanced")
        for k, kept in ((0, 1.0), (10, 0.1))
    ]
    text = measured.curve_of("text_sensitivity", pd.DataFrame(rows))
    assert text.noise.tolist() == pytest.approx([0.05, 0.45, 0.95])
    assert text.values.tolist() == [[1, 5, 9], [3, 15, 27]]
    halves = measured.curve_of("diffusion_in_diffusion", pd.DataFrame(merged))
    assert halves.values.tolist() == [[-1.0, -0.1]] and halves.mean().tolist() == [0, 1]
