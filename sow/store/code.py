"""The one answer to "which code decides this result": the files that given modules import, inside the
project.

Imports are read from the source, those inside functions too, so nothing is executed. A dotted name of the
project in a string counts as an import, for that is how classes are named that are looked up later; imports
for type checkers alone do not. A package's `__init__` that only passes names on leads to where the wanted
name is defined, not to all others.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sow.store.file_hashes import file_sha256
from sow.store.fingerprint import fingerprint, sha256
from sow.store.store import shared

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("sow", "experiments")
DOTTED = re.compile(rf"(?:{'|'.join(PROJECT)})(?:\.\w+)+")
NOTES = (".md", ".py", ".pyc")  # beside a module: no data of its


@dataclass(frozen=True)
class Source:
    """What a file of code is: the hash of what it does, and the dotted names that it imports.

    `passes_on` maps a name that a package's `__init__` takes from elsewhere to its dotted name there; None
    for a module that does anything else.
    """

    digest: str
    imports: tuple[str, ...]
    passes_on: dict[str, str] | None


def fingerprint_code(*roots: Any) -> str:
    """One hash of all code that `roots`, classes, functions or dotted names of modules,
    can reach; see `closure`."""
    return fingerprint(code_digests(*roots))


def code_digests(*roots: Any) -> dict[str, str]:
    """The hash of each file that `roots` can reach, by its path in the project: code without docstrings and
    comments, and the bytes of data files that lie beside it."""
    found = {}
    for root in roots:  # someone's own component, from outside the project
        module = name_of(root) if isinstance(root, str) else str(getattr(root, "__module__", root.__name__))
        if module.partition(".")[0] in PROJECT:
            continue
        file = getattr(sys.modules.get(module), "__file__", None)
        found[module] = file_sha256(Path(file)) if file else ""
    for path in closure(roots):
        found[path.relative_to(ROOT).as_posix()] = source(path).digest
        found |= {d.relative_to(ROOT).as_posix(): file_sha256(d) for d in data_beside(path.parent)}
    return found


def closure(roots: Iterable[Any]) -> list[Path]:
    """The project's files that `roots` import, directly or through others, themselves included, sorted."""
    seen: dict[str, Path] = {}
    open_names = [name_of(root) for root in roots]
    for name in open_names:
        if name.partition(".")[0] in PROJECT and file_of(name) is file_of(name.rpartition(".")[0]) is None:
            raise ValueError(f"{name} is neither a module of the project nor defined in one")
    while open_names:
        for module in modules_of(open_names.pop()):
            path = file_of(module)
            if path is None or module in seen:
                continue
            seen[module] = path
            if (known := source(path)).passes_on is None:
                open_names += known.imports
    return sorted(set(seen.values()))


def name_of(root: Any) -> str:
    """The dotted name of a class, function or module, or the name given."""
    if isinstance(root, str):
        return root
    module = getattr(root, "__module__", None)
    return f"{module}.{root.__qualname__}" if module else str(root.__name__)


def modules_of(name: str) -> Iterator[str]:
    """The modules that importing a dotted name needs: its packages, and where the name itself is defined."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        module = ".".join(parts[:i])
        path = file_of(module)
        if path is None:
            return
        yield module
        if i < len(parts) and file_of(".".join(parts[: i + 1])) is not None:
            continue
        passed_on = source(path).passes_on or {}
        wanted = parts[i] if i < len(parts) else "*"
        for elsewhere in [passed_on[wanted]] if wanted in passed_on else passed_on.values():
            yield from modules_of(elsewhere)


def file_of(module: str) -> Path | None:
    """The file of one of the project's modules, None for all else."""
    if module.partition(".")[0] not in PROJECT:
        return None
    place = ROOT.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=1024)
def data_beside(folder: Path) -> tuple[Path, ...]:
    """Data files that lie beside modules: weights, vocabularies, templates; not notes."""
    return tuple(
        sorted(p for p in folder.iterdir() if p.is_file() and p.suffix not in NOTES and p.name[0] != ".")
    )


def source(path: Path) -> Source:
    """What a file of code is, parsed once for each of its states."""
    key = fingerprint(
        ["source", 1, sys.version_info[:2], path.relative_to(ROOT).as_posix(), file_sha256(path)]
    )
    return _source(path, key)


@lru_cache(maxsize=4096)
def _source(path: Path, key: str) -> Source:
    found = shared().value(key, lambda: _parse(path))
    return Source(found["digest"], tuple(found["imports"]), found["passes_on"])


def _parse(path: Path) -> dict[str, Any]:
    tree = ast.parse(path.read_bytes())
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]  # of a module its folder, of an __init__ the package itself
    plain = _Bare().visit(tree)
    imports = list(dict.fromkeys(_imports(plain, ".".join(package))))
    passes_on = _passed_on(plain, ".".join(package)) if path.name == "__init__.py" else None
    return {"digest": sha256(ast.unparse(plain)), "imports": imports, "passes_on": passes_on}


class _Bare(ast.NodeTransformer):
    """Takes out what does nothing: docstrings, and what only type checkers read."""

    def generic_visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            return [self.visit(n) for n in node.orelse]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        if any(ast.unparse(base).endswith("BaseModel") for base in node.bases):
            return node  # a language model reads the docstrings of these
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{_module(node, package)}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and DOTTED.fullmatch(str(node.value)):
            yield str(node.value)


def _module(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _passed_on(tree: ast.Module, package: str) -> dict[str, str] | None:
    """The names that an `__init__` takes from elsewhere, None where it does anything of its own."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = _module(node, package)
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
        elif not _is_all(node):
            return None
    return {k: v for k, v in found.items() if v != "__future__.annotations"}


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
