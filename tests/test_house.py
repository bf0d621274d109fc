"""The layout: who may import whom, read from the source, imports inside functions and for types alone
included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("sow", "experiments")
ENTRANCES = {"sow.config.command_line"}  # which runs the studies
MATHS = ("method", "attention")  # the paper's equations
SURROUNDINGS = ("runs", "store", "config", "report")  # what they know nothing of
LOOSE = {"__init__", "errors", "types"}  # files of sow/ outside a room
BARE = ("method", "attention", "models")  # rooms that a machine with a model's libraries alone can import
LIBRARIES = {"torch", "transformers", "accelerate", "safetensors", "diffusers", "numpy", "PIL", "triton"}

# Imports that break a rule and wait for their owner: (importing module, imported module) -> who clears it.
WAITING: dict[tuple[str, str], str] = {}


def module_of(path: Path) -> str:
    """The dotted name of a file of the project."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(p): p for name in PROJECT for p in sorted((ROOT / name).rglob("*.py"))}


def imports(module: str, path: Path) -> Iterator[str]:
    """The project's modules that a file imports, wherever in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in FILES:
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


IMPORTS = {module: set(imports(module, path)) for module, path in FILES.items()}
ARROWS = sorted((a, b) for a, found in IMPORTS.items() for b in found)


def room(module: str) -> str:
    """`method` for sow.method.cycle; a loose file is a room of its own."""
    return module.split(".")[1] if module.startswith("sow.") else module.partition(".")[0]


def breaks(a: str, b: str) -> bool:
    """Whether module `a` must not import `b`."""
    if a.startswith("sow.") and b.partition(".")[0] == "experiments":
        return a not in ENTRANCES
    return room(a) in MATHS and b.startswith("sow.") and room(b) in SURROUNDINGS


def circles(arrows: set[tuple[str, str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""
    reach = {a: {b for x, b in arrows if x == a} for a, _ in arrows}
    changed = True
    while changed:
        changed = False
        for a, found in reach.items():
            more = found.union(*(reach.get(b, set()) for b in found))
            changed |= len(more) > len(found)
            reach[a] = more
    return [
        s for s in {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach if a in reach[a]}
    ]


def test_the_equations_know_nothing_of_runs_stores_and_configurations():
    assert {arrow for arrow in ARROWS if breaks(*arrow)} == {w for w in WAITING if breaks(*w)}


@pytest.mark.parametrize("level", ["rooms", "files"])
def test_no_import_runs_in_a_circle(level):
    """Rooms: the folders of sow/, and experiments. A package's own `__init__` may gather what lies in it."""
    allowed = [arrow for arrow in ARROWS if arrow not in WAITING]
    if level == "rooms":
        arrows = {(room(a), room(b)) for a, b in allowed if a != "sow" and b != "sow"}
    else:
        arrows = {
            (a, b) for a, b in allowed if FILES[a].name != "__init__.py" and FILES[b].name != "__init__.py"
        }
    assert not circles({(a, b) for a, b in arrows if a != b})


def test_what_waits_is_still_there():
    assert set(WAITING) <= set(ARROWS)


def test_every_file_of_the_package_lies_in_a_room():
    assert {p.stem for p in (ROOT / "sow").glob("*.py")} == LOOSE


def at_import(node: ast.AST) -> Iterator[str]:
    """The dotted names that importing a module imports: not those in functions, nor for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from at_import(child)


def test_a_bare_machine_imports_method_attention_and_models():
    wanted, seen, outside = [m for m in FILES if room(m) in BARE], set(), set()
    while wanted:
        module = wanted.pop()
        while module not in FILES:
            module = module.rpartition(".")[0]
        if module in seen:
            continue
        seen.add(module)
        wanted += [module.rpartition(".")[0]] if "." in module else []  # its packages come first
        for name in at_import(ast.parse(FILES[module].read_bytes())):
            if name.partition(".")[0] in PROJECT:
                wanted.append(name)
            else:
                outside.add(name.partition(".")[0])
    assert outside - LIBRARIES <= sys.stdlib_module_names


def test_imports_are_found_wherever_they_are(tmp_path, monkeypatch):
    """In functions, for types alone, relative ones, and names taken from a package."""
    file = tmp_path / "some.py"
    file.write_text(
        "import sow.types\nfrom . import run\nfrom ..store import files\n"
        "def f():\n    from sow.method.cycle import Cycle\n"
        "if TYPE_CHECKING:\n    from sow.runs import records\n"
    )
    found = set(imports("sow.method.some", file))
    assert found == {"sow.types", "sow.method.run", "sow.store.files", "sow.method.cycle", "sow.runs.records"}
    assert breaks("sow.method.some", "sow.runs.records") and not breaks("sow.method.some", "sow.method.run")
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [{"a", "b", "c"}]
