"""The pages that docstrings write: a page a room of the package, a section a module,
read without importing anything."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path


def rooms(root: Path) -> dict[str, list[Path]]:
    """Modules by room: the folders of sow/, sow itself, and experiments."""
    found: dict[str, list[Path]] = {}
    for package in ("sow", "experiments"):
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).parts
            room = parts[1] if package == "sow" and len(parts) > 2 else package
            found.setdefault(room, []).append(file)
    return found


def name_of(file: Path, root: Path) -> str:
    """The module's dotted name."""
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def anchor(module: str) -> str:
    """The anchor of a module's section."""
    return re.sub(r"[^\w-]", "", module.lower())


def page(room: str, files: list[Path], root: Path) -> str:
    """A room: its modules, each with its public classes and functions."""
    out = [f"# {room}", ""]
    for file in files:
        tree = ast.parse(file.read_text())
        if not (doc := ast.get_docstring(tree)):
            continue
        out += [f"## {name_of(file, root)}", "", *_text(doc)]
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                out += _class(node)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                out += _function(node, 3)
    return "\n".join(out) + "\n"


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(b) for b in node.bases)
    yield from (f"### class {node.name}{f'({bases})' if bases else ''}", "")
    yield from _text(ast.get_docstring(node))
    held = [
        ast.unparse(n)
        for n in node.body
        if isinstance(n, ast.AnnAssign) and not ast.unparse(n).startswith("_")
    ]
    if held:
        yield from ("```python", *held, "```", "")
    for method in node.body:
        if (
            isinstance(method, ast.FunctionDef)
            and not method.name.startswith("_")
            and ast.get_docstring(method)
        ):
            yield from _function(method, 4)


def _function(node: ast.FunctionDef, level: int) -> Iterator[str]:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    yield from (f"{'#' * level} {node.name}", "")
    yield from ("```python", f"def {node.name}({ast.unparse(node.args)}){returns}", "```", "")
    yield from _text(ast.get_docstring(node))


def _text(doc: str | None) -> Iterator[str]:
    """A docstring as Markdown; paragraphs that are laid out in columns keep their layout."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc or "")):
        aligned = re.search(r"^ |\S {2,}\S", paragraph, re.M)
        yield from (["```text", paragraph, "```", ""] if aligned else [_plain(paragraph), ""])


def _plain(paragraph: str) -> str:
    return re.sub(r"(?<!`)([*_<])(?![^`]*`)", r"\\\1", paragraph)
