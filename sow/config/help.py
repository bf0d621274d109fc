"""`sow --help`: examples, then the keys and each option of the groups on one line, as conf/ comments them."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from sow.config.comments import Field, about, fields
from sow.config.places import CONF
from sow.errors import UserError, unknown

EXAMPLES = {
    "": "one image on the embedded model of drawn people, on any CPU",
    'prompt="An old person besides a peaceful river." task=attribute': "another prompt and setting",
    "+ablation=no_dam": "the method without one of its parts; [no_dam,no_pi] combines",
    "-m gate.tau=0.1,0.2 'seed=range(0,4)'": "a sweep: every value with every other, the model loaded once",
    "method=repaint": "another method on the same request",
    "model=sd21_base condition.image=face.jpg": "Stable Diffusion and a photograph",
    "experiment=table2": "a table of the paper",
    "--from image.png seed=1": "what made this image, with another seed",
    "doctor": "what this machine has and what is missing",
    "demo model=people port=7860": "a page in the browser: draw the boxes, watch the cycles, compare",
    "pipeline DIR": "a folder for diffusers' DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=DIR)",
}


def help_text(words: Sequence[str] = (), folders: Sequence[Path] = ()) -> str:
    """The whole help; or, of the groups that `words` name, their options with every field.

    `folders` are the user's own, beside conf/. Raises UserError for a word that names no group.
    """
    groups = _groups([CONF, *folders])
    root = (CONF / "config.yaml").read_text(encoding="utf-8")
    keys = [f for f in fields(root) if not f.name.startswith("hydra.")]
    roots = {f.name.partition(".")[0] for f in keys}  # they stand in every help
    named = [re.split("[.=@]", word.lstrip("+~"))[0] for word in words]
    for name in named:
        if name not in groups and name not in roots:
            raise unknown(name, groups)
    if shown := [name for name in dict.fromkeys(named) if name in groups]:
        return "\n".join(line for name in shown for line in _whole(name, groups[name]))
    chosen = {k: v for d in yaml.safe_load(root)["defaults"] if isinstance(d, dict) for k, v in d.items()}
    chosen = {k: chosen[v[2:-1]] if str(v).startswith("${") else v for k, v in chosen.items()}
    out = ["sow [group=option] [key=value] [-m]", "", "Examples:"]
    out += [line for words, told in EXAMPLES.items() for line in (f"  # {told}", f"  sow {words}".rstrip())]
    out += ["", "Keys:", *(_line(f"  {f.name}={f.value}", f.comment) for f in keys)]
    out += ["", "Options, * is the default:"]
    for group, files in groups.items():
        out.append(f"  {group}")
        out += [
            _line(f"   {'*' if option == chosen.get(group) else ' '}{option}", _told(file))
            for option, file in files.items()
        ]
    out += ["", "--help GROUP: a group's fields. --cfg job WORDS: what words mean. --hydra-help: more flags."]
    return "\n".join(out)


def _groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """The file of each option by group; not Hydra's own groups, nor the searches that W&B steers."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*/*.yaml")):
            if file.parent.name != "sweep":
                found.setdefault(file.parent.name, {})[file.stem] = file
    return dict(sorted(found.items()))


def _read(file: Path) -> tuple[str, list[Field]]:
    """The head of an option's file and its values; raises UserError for one that is no YAML."""
    try:
        content = file.read_text(encoding="utf-8")
        values = [f for f in fields(content) if not f.name.endswith("_target_")]
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {file}: {reason} (--config-dir)") from error
    return about(content), values


def _told(file: Path) -> str:
    """An option in words: its file's head, or else its values."""
    head, values = _read(file)
    return head or ", ".join(f"{f.name}={f.value}" for f in values)


def _whole(group: str, files: dict[str, Path]) -> Iterator[str]:
    """Every field of a group's options, comments in full."""
    for option, file in files.items():
        head, values = _read(file)
        yield f"{group}={option}"
        yield from textwrap.wrap(head, _width(), initial_indent="  ", subsequent_indent="  ")
        for field in values:
            name = _name(f"  {field.name}={field.value}")
            yield from textwrap.wrap(
                name + field.comment, _width(), drop_whitespace=True, subsequent_indent=" " * 28
            )
        yield ""


def _line(name: str, told: str) -> str:
    """One line of the terminal's width; what does not fit ends in two dots."""
    name = _name(name)
    return (name + textwrap.shorten(told, max(20, _width() - len(name)), placeholder=" ..")).rstrip()


def _name(name: str) -> str:
    return f"{name:<26}  "


def _width() -> int:
    return shutil.get_terminal_size((110, 24)).columns
