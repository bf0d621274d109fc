"""`python -m benchmarks.card REPORT`: what `benchmarks/cuda_check.py` found on a card, into docs/speed.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sow.report import blocks


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
    """Publish the report at the path given."""
    (path,) = words if words is not None else sys.argv[1:]
    blocks.publish("speed-cuda", markdown(json.loads(Path(path).read_text())))


if __name__ == "__main__":
    main()
