"""What the libraries import long before it is needed, put off until it is: a third of a model's loading time.

diffusers imports all of its transformers and autoencoders for one class, torch's compiler for a decorator,
scipy's distributions for one scheduler, and peft, where it is installed, for one class; transformers imports
the losses of every model. The packages named here are executed at the first name that is asked of them; until
then their submodules are imported alone. Nothing else about them changes. Only the command line does this: a
program that imports `sow` keeps its libraries as they are.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "peft",
    "peft.tuners",
    "peft.tuners.tuners_utils",
    "scipy.integrate",
    "scipy.stats",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
    "torchvision.datasets",
    "torchvision.io",
    "torchvision.models",
    "torchvision.ops",
    "transformers.loss.loss_utils",
)
# Packages whose modules import each other in one order only, so that they run before any module of theirs,
# and the modules that are asked for earlier.
ORDERED = ("peft", "torch._dynamo")
ALONE = ("peft.tuners", "peft.tuners.tuners_utils", "torch._dynamo._trace_wrapped_higher_order_op")


def put_off() -> None:
    """Put off what is in `PACKAGES` and has not been imported yet; a second call does nothing."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(MetaPathFinder):
    """Finds the packages that are put off, each with a loader that waits."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ALONE and _load_before(name) and name in sys.modules:
            found = sys.modules[name]
            if found.__spec__ is not None and found.__spec__.loader is not None:
                # importlib takes a loaded module's own spec, and would run the module again by it.
                found.__spec__.loader = Found(found, found.__spec__.loader)
            return found.__spec__
        spec = PathFinder.find_spec(name, path) if name in PACKAGES else None
        if spec is not None and spec.loader is not None:
            spec.loader = Waiting(spec.loader)
        return spec


class Waiting(Loader):
    """The loader of a module that is executed at the first name asked of it; else the module's own."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = PutOff
        vars(module).update(STAND_INS.get(module.__name__, {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class Found(Loader):
    """The loader, for once, of a module that its package has loaded meanwhile."""

    def __init__(self, module: ModuleType, own: Any) -> None:
        self.module, self.own = module, own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = self.own


class PutOff(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__version__"):  # importlib and inspect look
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        load(self)
        return getattr(self, name)


def load(module: ModuleType) -> None:
    """Run the code of a module that was put off, in place."""
    if _load_before(module.__name__) and not isinstance(module, PutOff):
        return
    spec = module.__spec__
    assert spec is not None and isinstance(spec.loader, Waiting)
    module.__class__ = ModuleType
    for name in STAND_INS.get(module.__name__, ()):
        vars(module).pop(name, None)
    spec.loader = spec.loader.own
    spec.loader.exec_module(module)
    if module.__name__ == "torch._dynamo":
        for name, seen in _marked:
            getattr(module, name)(seen)


def _load_before(name: str) -> bool:
    """Whether a package that was put off has been loaded now because a module of it is asked for."""
    packages = (sys.modules.get(outer) for outer in ORDERED if name.startswith(f"{outer}."))
    waiting = [package for package in packages if isinstance(package, PutOff)]
    for package in waiting:
        load(package)
    return bool(waiting)


_marked: list[tuple[str, Any]] = []


def _mark(name: str) -> Callable[[Any], Any]:
    """torch's decorator `name`, which marks something for the compiler; it does so when that is loaded."""

    def decorate(seen: Any) -> Any:
        _marked.append((name, seen))
        return seen

    return decorate


def _disable(seen: Any = None, recursive: bool = True, **words: Any) -> Any:
    """torch's decorator of what the compiler shall leave out, applied once that is loaded."""
    if seen is None:
        return functools.partial(_disable, recursive=recursive, **words)

    @functools.wraps(seen)
    def call(*values: Any, **named: Any) -> Any:
        compiler = sys.modules["torch._dynamo"]
        if isinstance(compiler, PutOff):
            return seen(*values, **named)
        return compiler.disable(seen, recursive, **words)(*values, **named)

    return call


class _Losses(Mapping[str, Any]):
    """transformers' losses by name."""

    def __getitem__(self, name: str) -> Any:
        return self._own()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())

    def _own(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = _loaded("transformers.loss.loss_utils").LOSS_MAPPING
        return found


def _loaded(name: str) -> ModuleType:
    module = sys.modules[name]
    if isinstance(module, PutOff):
        load(module)
    return module


def _call(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is put off: it runs the module's code when it is called."""

    def call(*values: Any, **named: Any) -> Any:
        return getattr(_loaded(module), name)(*values, **named)

    return call


class _OfPeft(type):
    """The type of a class that stands for a class of peft: what is one of it, once peft has run."""

    def __instancecheck__(cls, value: Any) -> bool:
        own = sys.modules["peft.tuners.tuners_utils"]
        return not isinstance(own, PutOff) and isinstance(value, getattr(own, cls.__name__))


STAND_INS: dict[str, dict[str, Any]] = {
    "peft.tuners.tuners_utils": {"BaseTunerLayer": _OfPeft("BaseTunerLayer", (), {})},
    "torch._dynamo": {
        "allow_in_graph": _mark("allow_in_graph"),
        "assume_constant_result": _mark("assume_constant_result"),
        "disable": _disable,
    },
    "torch.fx.experimental.symbolic_shapes": {
        "GuardOnDataDependentSymNode": type("GuardOnDataDependentSymNode", (RuntimeError,), {}),
        "guard_or_false": _call("torch.fx.experimental.symbolic_shapes", "guard_or_false"),
    },
    "transformers.loss.loss_utils": {"LOSS_MAPPING": _Losses()},
}
