"""A running job's configuration with other words on top: how a study compares methods on one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sow.config.compose import Config

OF_THE_JOB = ("paths.", "force=", "study.publish=")


def with_words(config: Config, words: Sequence[str]) -> Config:
    """The words of the job's own command line, then `words`; a key that is given again replaces the first.

    Raises UserError for words that do not compose.
    """
    from sow.config.compose import compose

    new = [str(word) for word in words]
    changed = {key_of(word) for word in new} - {"ablation"}
    kept = [w for w in config.overrides if key_of(w) not in changed and not w.startswith(OF_THE_JOB)]
    with outside_hydra():
        return compose([*merge_ablations([*kept, *new]), f"paths.outputs={quote(str(config.paths.outputs))}"])


def key_of(word: str) -> str:
    """`+group=option` -> group."""
    return word.lstrip("+~").partition("=")[0]


def merge_ablations(words: Sequence[str]) -> list[str]:
    """The words with all ablations in one: Hydra takes a group that is added once."""
    names = [
        n.strip()
        for w in words
        if key_of(w) == "ablation"
        for n in w.partition("=")[2].strip("[]").split(",")
    ]
    merged = ",".join(dict.fromkeys(filter(None, names)))
    return [*(w for w in words if key_of(w) != "ablation"), *([f"+ablation=[{merged}]"] if merged else [])]


def quote(value: str) -> str:
    """A value that Hydra's grammar takes as it stands."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@contextmanager
def outside_hydra() -> Iterator[None]:
    """Compose inside a running job: Hydra allows one configuration search at a time,
    this sets the job's aside."""
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = running
