"""`python -m benchmarks.card REPORT...`: what `benchmarks/cuda_check.py` found on a card, into docs/speed.md.

Of a part that several reports have, the last that measured it counts: `--only` measures some again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sow.report import blocks


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of all parts; ends the program for those of other weights, cards or versions."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for key in ("device", "weights", "versions", "python"):
            if report[key] != reports[0][key]:
                sys.exit(
                    f"error: {report[key]} is not {reports[0][key]}: publish reports of one {key} (REPORT)"
                )
        found: dict[str, list[dict[str, Any]]] = {}
        for one in report["found"]:
            found.setdefault(one["part"], []).append(one)
        for part, rows in found.items():
            if part not in parts or rows[0]["name"] != "not begun":
                parts[part] = rows
    return {**reports[0], "found": [row for rows in parts.values() for row in rows]}


def markdown(report: dict[str, Any]) -> str:
    """A table of the checks, then one of the measurements, as the report (`cuda_check.write`) holds them."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    checks = [f for f in report["found"] if f["ok"] is not None]
    measured = [f for f in report["found"] if f["ok"] is None and isinstance(f["value"], list)]
    left = [f"{f['part']} ({f['value']})" for f in report["found"] if f["name"] == "not begun"]
    lines = ["| check | found | bound | |", "| --- | ---: | --- | --- |"]
    for f in checks:
        value = f"{f['value']:.2g}" if isinstance(f["value"], float) else str(f["value"])
        lines.append(f"| {f['name']} | {value} | {f['bound']} | {'holds' if f['ok'] else '**fails**'} |")
    lines += ["", "| measured | where | median | quartiles | aim |", "| --- | --- | ---: | ---: | --- |"]
    for f in measured:
        median, low, high = f["value"]
        unit = f["details"].get("unit", "")
        lines.append(
            f"| {f['name']} | {f['part']} | {median:.4g} {unit} | {low:.4g} to {high:.4g} | {f['bound']} |"
        )
    said = f"Here: {report['device']}, {report['weights']}, {versions}, Python {report['python']}."
    missing = f" Not begun: {'; '.join(left)}." if left else ""
    return "\n".join([*lines, "", said + missing])


def main(words: list[str] | None = None) -> None:
    """Publish the reports at the paths given."""
    paths = words if words is not None else sys.argv[1:]
    blocks.publish("speed-cuda", markdown(merged([json.loads(Path(p).read_text()) for p in paths])))


if __name__ == "__main__":
    main()
