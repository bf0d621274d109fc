"""Weights from disk, whole or not at all: what is missing, left over or of another shape is one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sow.errors import UserError

SHOWN = 4  # names of tensors of a kind in the error
# Positions 0, 1, 2, .., which older versions of transformers wrote among the weights.
COUNTED = "position_ids"


def load_whole(cls: Any, source: str, key: str, *, subfolder: str | None = None, **options: Any) -> Any:
    """`cls.from_pretrained` of diffusers or transformers with every tensor of the model read from the
    files, no other.

    Raises UserError, naming the files' place, the tensors and `key`, where tensors and model do not fit
    each other.
    """
    if subfolder is not None:
        options["subfolder"] = subfolder
    model, report = cls.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    need_whole(
        f"{source}/{subfolder}" if subfolder else source,
        key,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=[name for name, *_ in report["mismatched_keys"]],
    )
    return model


def load_parts(
    parts: Mapping[str, str], source: str, hub: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """A pipeline's folder, part by part: `parts` are folders and classes of diffusers or transformers."""
    import diffusers
    import transformers
    from transformers.models.t5gemma import T5GemmaModuleConfig, modeling_t5gemma

    found = {}
    for part, name in parts.items():
        cls = next(getattr(m, name) for m in (transformers, diffusers, modeling_t5gemma) if hasattr(m, name))
        if part.startswith("tokenizer"):
            found[part] = cls.from_pretrained(source, subfolder=part, **hub)
        else:
            more = {}
            if (
                name == "T5GemmaEncoder"
            ):  # whose class reads the configuration of encoder and decoder together
                more["config"] = T5GemmaModuleConfig.from_pretrained(source, subfolder=part, **hub)
            found[part] = load_whole(cls, source, subfolder=part, **options, **more)
    return found


def fill(module: Any, state: Mapping[str, Any], place: str, key: str) -> None:
    """Load `state` into `module`, counters of batch normalisation apart; raises UserError where they do not
    fit."""
    own = {n: v for n, v in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    need_whole(
        place,
        key,
        missing=own.keys() - state.keys(),
        unexpected=state.keys() - own.keys(),
        mismatched=[n for n in own.keys() & state.keys() if own[n].shape != state[n].shape],
    )
    module.load_state_dict(state, strict=False)


def need_whole(
    place: str,
    key: str,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[str] = (),
) -> None:
    """Raise UserError for tensors that a model lacks, does not know, or has in another shape."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    found = {
        kind: sorted(name for name in names if not name.endswith(COUNTED)) for kind, names in kinds.items()
    }
    words = [f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names]
    if words:
        raise UserError(f"the weights in {place} do not fit their model: {'; '.join(words)} ({key})")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")
