"""One sample of a study: its numbers and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow import report

if TYPE_CHECKING:
    from sow.runs.records import RunFolder
    from sow.types import Sample


def write_pictures(folder: RunFolder, sample: Sample, place: str = "") -> dict[str, Path]:
    """One sample's pictures; returns their paths by name, the image first.

    A small image has a `view.png` beside it, enlarged for eyes: no picture of its own, so none of those.
    """
    from sow.planner.drawing import draw_plan

    drawn = draw_plan(sample.request, sample.plan, sample.canvas)
    pictures = {
        "image": folder.save_image(f"{place}image.png", sample.image),
        "canvas": folder.save_image(f"{place}canvas.png", drawn),
    }
    if sample.view is not sample.image:
        folder.save_image(f"{place}view.png", sample.view)
    if sample.snapshots:
        pictures["cycles"] = folder.save_image(f"{place}cycles.png", report.strip(sample.snapshots))
    return pictures


def write_numbers(folder: RunFolder, sample: Sample, row: Mapping[str, Any], place: str = "") -> None:
    """One sample's plan, metrics and trace."""
    folder.save_json(f"{place}plan.json", sample.plan.to_dict())
    folder.save_json(f"{place}metrics.json", row)
    folder.save_table(f"{place}trace.parquet", sample.trace)


def numbers(sample: Sample, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one sample: what was measured, what the gates did, what it took."""
    return {
        "seed": sample.request.seed,
        **measured,
        "open_gates": open_gates(sample.trace),
        **{f"unet_evaluations_{size}": count for size, count in sample.counts.items()},
    }


def open_gates(trace: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the cycles' gates, one per layer and denoising step, that were open; None without any."""
    gates = [value for row in trace for name, value in row.items() if name.startswith("gate/")]
    return sum(value > 0 for value in gates) / len(gates) if gates else None


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the numbers over the images that have them; of one image, its row."""
    if len(rows) == 1:
        return dict(rows[0])
    out: dict[str, Any] = {"images": len(rows)}
    for name in dict.fromkeys(key for row in rows for key in row if key != "seed"):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        out[name] = sum(values) / len(values) if values else None
    return out


def flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested headline numbers under dotted names, lists left out: what a tracker's summary shows."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping):
            out.update(flat(value, f"{name}."))
        elif isinstance(value, (str, bool, int, float)) and value == value:
            out[name] = value
    return out
