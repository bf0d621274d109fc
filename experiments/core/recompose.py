"""A running job's configuration with other words on top: how a study compares methods on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sow.config.words import key_of

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
    dropped = (*OF_THE_JOB, *(["study."] if "study" in changed else []))  # keys of another study
    kept = [w for w in config.words if key_of(w) not in changed and not w.lstrip("+~").startswith(dropped)]
    return compose([*kept, *new, f"paths.outputs={config.paths.outputs}"], own=config.words)
