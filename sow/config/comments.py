"""The YAML files of conf/ as people read them: each value with the comment beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Field:
    """A value of a YAML file: its dotted name, its text, and the comment behind it."""

    name: str
    value: str
    comment: str


def fields(text: str) -> Iterator[Field]:
    """Every value of a YAML file but its defaults list, in order."""
    lines = text.splitlines()

    def comment(key: yaml.Node, node: yaml.Node) -> str:
        """What stands above the key, below the file's head,
        and behind the node's last line, or a block's key."""
        first = key.start_mark.line
        while first > 0 and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        above = [line.strip("# ") for line in lines[first : key.start_mark.line]] if first > 0 else []
        block = node.start_mark.line != node.end_mark.line and not getattr(node, "flow_style", True)
        line = lines[node.start_mark.line - 1] if block else lines[node.end_mark.line][node.end_mark.column :]
        return " ".join([*above, line.partition(" # ")[2].strip()]).strip()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[Field]:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from walk(value, f"{name}.")
                continue
            shown = text[value.start_mark.index : value.end_mark.index]
            if isinstance(value, yaml.SequenceNode) and not value.flow_style:
                plain = yaml.safe_load(
                    shown.strip() if value.start_mark.column == 0 else _dedent(shown, value)
                )
                shown = yaml.safe_dump(plain, default_flow_style=True, width=10_000).strip()
            yield Field(name, shown.strip(), comment(key, value))

    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from (f for f in walk(root, "") if f.name != "defaults")


def _dedent(shown: str, node: yaml.Node) -> str:
    return "\n".join(line.removeprefix(" " * node.start_mark.column) for line in shown.splitlines())


def about(text: str) -> str:
    """The comment at the head of a YAML file."""
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.lstrip("# ").strip())
    return " ".join(head)
