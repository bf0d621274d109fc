"""Numbers of the observed runs: one-wayness, attention over uniform, and what the gates read; see
`sow/dynamics/perturb.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sow.dynamics.observe import TEXT
from sow.dynamics.perturb import HELD, one_wayness

OTHERS = ("related", "rest")


def energies(responses: pd.DataFrame) -> pd.DataFrame:
    """One row per request and perturbed step: energies `out` = F[c, nc], `held_out` (the same for a held
    condition) and `back` = F[nc, c], nan where a source was not measured; with _norm, their square roots:
    norms of the change per unit of noise.

    nc is related region and rest together: independent perturbations of the two add in energy.
    """
    flows = {
        "out": (("condition",), OTHERS),
        "held_out": ((HELD,), OTHERS),
        "back": (OTHERS, ("condition",)),
    }
    rows = []
    for (request, step, phase), part in responses.groupby(["request", "step", "phase"], sort=True):
        row: dict[str, Any] = {"request": request, "step": step, "phase": phase}
        for name, (sources, targets) in flows.items():
            found = part[part.source.isin(sources) & part.target.isin(targets)]
            row[name] = float(found.energy.sum(min_count=1))
            row[f"{name}_norm"] = row[name] ** 0.5
        rows.append(row)
    return pd.DataFrame(rows)


def flows(responses: pd.DataFrame) -> dict[str, float | None]:
    """w of the energies summed over all steps and over each stage, and the mean norms of the responses; over
    requests.

    one_wayness takes the held condition for the way out, because that is what a method that keeps replacing
    holds on to; one_wayness_once takes the condition perturbed at one step, which the next replacement
    undoes.
    """
    if not len(responses):
        return {}
    table = energies(responses)
    out: dict[str, float | None] = {"one_wayness": mean_w(table, "held_out")}
    for phase in ("cycle", "preserve"):
        out[f"one_wayness_{phase}"] = mean_w(table[table.phase == phase], "held_out")
    out["one_wayness_once"] = mean_w(table, "out")
    for name in ("held_out", "out", "back"):
        out[name] = finite(table[f"{name}_norm"].mean())
    return out


def mean_w(table: pd.DataFrame, way_out: str) -> float | None:
    """Mean over requests of w; None without a step of that kind."""
    if not len(table):
        return None
    sums = table.groupby("request")[[way_out, "back"]].sum(min_count=1)
    return finite(np.mean([one_wayness(o, b) for o, b in sums.itertuples(index=False)]))


def attention_ratios(attention: pd.DataFrame) -> dict[str, float | None]:
    """Attention mass over that of uniform attention, mean over steps, layers and requests: 1 = no preference.

    c_to_nc, cr_to_c, rest_to_c as in "attention from X to Y": queries in X, keys in Y; c_to_cr, the way back
    of P+; where text and image share the attention, text_to_nc and c_to_text, the way round through the text.
    """
    return {name: finite(table.ratio.mean()) for name, table in ratios(attention).items()}


def ratios(attention: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Named flow -> a row per request, step and layer with `ratio` = mass / uniform."""
    keys = ["request", "step", "layer", "tokens"]
    pairs = {
        "c_to_nc": ("condition", OTHERS),
        "c_to_cr": ("condition", ("related",)),
        "cr_to_c": ("related", ("condition",)),
        "rest_to_c": ("rest", ("condition",)),
    }
    if TEXT in set(attention["key"]):  # nc -> text -> c, the way round
        pairs |= {"text_to_nc": (TEXT, OTHERS), "c_to_text": ("condition", (TEXT,))}
    out = {}
    for name, (query, targets) in pairs.items():
        part = attention[(attention["query"] == query) & attention["key"].isin(targets)]
        # Without its keys in a layer a flow has no ratio there.
        table = part.groupby(keys, sort=True)[["mass", "uniform"]].sum(min_count=len(targets)).reset_index()
        table = table[table.uniform > 0]
        out[name] = table.assign(ratio=table.mass / table.uniform).dropna(subset=["ratio"])
    return out


def gate_numbers(gates: pd.DataFrame) -> dict[str, float | None]:
    """Mean R_c in the cycles and the share of open gates there (in plain sampling, which has
    none, over all steps)."""
    if not len(gates):
        return {}
    inside = gates[gates.phase == "cycle"]
    inside = inside if len(inside) else gates
    return {"r_c": finite(inside.r_c.mean()), "open": finite(inside.open.mean())}


def finite(value: Any) -> float | None:
    """A plain number, None for nan."""
    return float(value) if np.isfinite(value) else None


def history(frames: Mapping[str, pd.DataFrame]) -> list[dict[str, float]]:
    """One row per denoising step: what W&B draws as curves, `method/flow`."""
    rows: dict[int, dict[str, float]] = {}
    for method, part in frames["attention"].groupby("method", sort=False):
        for name, table in ratios(part).items():
            for step, value in table.groupby("step").ratio.mean().items():
                rows.setdefault(int(step), {})[f"{method}/attention_{name}"] = float(value)
    for table, column in (("gates", "r_c"),):
        if len(frames[table]):
            for (method, step), value in (
                frames[table].groupby(["method", "step"], sort=False)[column].mean().items()
            ):
                rows.setdefault(int(step), {})[f"{method}/{column}"] = float(value)
    if len(frames["responses"]):
        for method, part in frames["responses"].groupby("method", sort=False):
            for row in (
                energies(part)
                .groupby("step")[["out_norm", "back_norm"]]
                .mean()
                .reset_index()
                .to_dict("records")
            ):
                rows.setdefault(int(row["step"]), {})[f"{method}/response_out"] = row["out_norm"]
                rows[int(row["step"])][f"{method}/response_back"] = row["back_norm"]
    return [rows[step] for step in sorted(rows)]
