"""The pages that conf/ writes: every group, option and field with its comment,
and the assumptions among them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sow.config.comments import about, fields

WHOLE = ("ablation", "experiment", "sweep", "hydra")  # groups whose files are shown as they are
ASSUMPTION = re.compile(r"ASSUMPTION (A\d+): (.*?)(?:; alternatives?:? (.*))?$")


def configuration(conf: Path) -> str:
    """The page of every group, option and field."""
    out = [
        "# Configuration",
        "",
        "Written from `conf/`. `uv run run.py --cfg job` prints what a command line means; `group=option` "
        "chooses, `group.field=value` sets, `+ablation=NAME` takes a part of the method away.",
        "",
        "## The root",
        "",
        about((conf / "config.yaml").read_text()),
        "",
        *_defaults((conf / "config.yaml").read_text()),
        *_table((conf / "config.yaml").read_text(), leave_out=("hydra.",)),
    ]
    for folder in sorted(p for p in conf.iterdir() if p.is_dir()):
        out += ["", f"## {folder.name}", ""]
        for file in sorted(folder.rglob("*.yaml")):
            text = file.read_text()
            out += [
                f"### {folder.name}={file.relative_to(folder).with_suffix('').as_posix()}",
                "",
                about(text),
                "",
            ]
            out += ["```yaml", text.strip(), "```", ""] if folder.name in WHOLE else _table(text)
    return "\n".join(out) + "\n"


def deviations(conf: Path) -> str:
    """The page of what the paper leaves open and what is done here."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file in sorted(conf.rglob("*.yaml")):
        option = file.relative_to(conf)
        for field in fields(file.read_text()):
            match = ASSUMPTION.search(field.comment)
            if match:
                here = f"{option.parent.as_posix()}.{field.name}={field.value}"
                found.setdefault(match[1], []).append((here, match[2], match[3] or ""))
    rows = [
        f"| {number} | `{_cell(here)}` | {_cell(words)} | {_cell(other)} |"
        for number in sorted(found, key=lambda n: int(n[1:]))
        for here, words, other in found[number]
    ]
    return "\n".join(
        [
            "# Deviations",
            "",
            "The paper leaves choices open. Each one taken here is marked `ASSUMPTION` beside its value in "
            "`conf/`, with what else could be meant; this page is `grep -r ASSUMPTION conf/`, sorted. Every "
            "alternative is a setting.",
            "",
            "| | here | why, or what it means | alternatives |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "On the embedded model some of the paper's numbers are replaced (`calibration=people`, chosen "
            "on validation groups; `calibration=paper` runs the paper's):",
            "",
            *_table((conf / "calibration" / "people.yaml").read_text()),
            about((conf / "calibration" / "people.yaml").read_text()),
            "",
            "COW's published code exists in more than one state; where they differ (the eta of the cycles "
            "is 0 in one and 1 "
            'in another) `method=cow` follows the paper\'s "noise level eta set 1"; `cycle.eta=0` gives the '
            "other.",
            "",
        ]
    )


def _defaults(text: str) -> list[str]:
    chosen = [next(iter(d.items())) for d in yaml.safe_load(text)["defaults"] if isinstance(d, dict)]
    return [
        "| group | option |",
        "| --- | --- |",
        *(f"| [{group}](#{group}) | `{option}` |" for group, option in chosen),
        "",
    ]


def _table(text: str, leave_out: tuple[str, ...] = ()) -> list[str]:
    rows = [f for f in fields(text) if not f.name.startswith((*leave_out, "_target_"))]
    own = (f for f in fields(text) if not f.name.startswith("hydra."))
    targets = [f.value for f in own if f.name.rpartition(".")[2] == "_target_"]
    bases = [
        str(d)
        for d in (yaml.safe_load(text) or {}).get("defaults", ())
        if isinstance(d, str) and d != "_self_"
    ]
    out = [f"Class: {', '.join(f'`{t}`' for t in targets)}.", ""] if targets else []
    out += [f"Begins as {', '.join(f'`{b}`' for b in bases)}.", ""] if bases else []
    rows = [f for f in rows if not f.name.endswith("._target_")]
    if rows:
        out += ["| field | value | |", "| --- | --- | --- |"]
        out += [f"| `{f.name}` | `{_cell(f.value)}` | {_cell(f.comment)} |" for f in rows]
    return [*out, ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") if text else " "
