"""Weights from disk, whole or not at all: what is missing, left over or of another shape is one error."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sow.errors import UserError
from sow.models import checkpoint, variants
from sow.models.hub import copy_of
from sow.models.tensors import COUNTED, need_finite, need_floats, some

log = logging.getLogger(__name__)

PADDED = 1024  # entries that a text encoder may have beyond its tokenizer's, to a round number
_taken: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def load_whole(cls: Any, source: str, key: str, *, subfolder: str | None = None, **options: Any) -> Any:
    """`cls.from_pretrained` of diffusers or transformers with every tensor of the model read from the
    files, no other.

    Raises UserError, naming the files' place, the tensors and `key`, where tensors and model do not fit
    each other, and for tensors that are no floats: cast, they would be others.
    """
    if subfolder is not None:
        options["subfolder"] = subfolder
    place = f"{source}/{subfolder}" if subfolder else source
    check_config(cls, source, key, subfolder=subfolder, revision=options.get("revision"))
    wanted = options.get("variant")
    options["variant"], found = variants.pick(_names(source, subfolder, options), wanted, place, key)
    if wanted is None and len(found) > 1:
        words = ", ".join(v or "plain" for v in found)
        log.warning(
            "%s holds weights as %s: %s ones are taken (model.variant)",
            place,
            words,
            options["variant"] or "plain",
        )
    model, report = cls.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    need_whole(
        place,
        key,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=[name for name, *_ in report["mismatched_keys"]],
    )
    for file in _weight_files(source, subfolder, options.get("revision"), options.get("variant")):
        need_floats(file, key)
    need_finite(model, place, key)
    if found:
        _taken[model] = {
            "part": subfolder or "",
            "variant": options["variant"] or "plain",
            "there": [v or "plain" for v in found],
        }
    return model


def taken(model: Any) -> Mapping[str, Any] | None:
    """Which of a part's files `load_whole` took: `part`, `variant` ("plain" or fp16 and the like) and those
    that are `there`."""
    return _taken.get(model)


def _names(source: str, subfolder: str | None, options: Mapping[str, Any]) -> list[str]:
    """Names of the files of a part: in a folder, in the hub's copy on this disk, or on the hub."""
    revision = options.get("revision")
    inside = subfolder or ""
    folder = (
        Path(source)
        if Path(source).is_dir()
        else copy_of(source, revision, f"{inside}/config.json".lstrip("/"))
    )
    here = [p.name for p in (folder / inside).glob("*.safetensors")] if folder else []
    if here or Path(source).is_dir():
        return here
    from huggingface_hub import list_repo_files

    try:
        everything = list_repo_files(source, revision=revision)
    except Exception as error:  # the library that loads says it better
        log.info("cannot list %s: %s", source, error)
        return []
    inside_it = (Path(name) for name in everything if Path(name).parent == Path(inside))
    return [file.name for file in inside_it if file.suffix == ".safetensors"]


def check_config(
    cls: Any, source: str, key: str, *, subfolder: str | None = None, revision: str | None = None
) -> None:
    """Raise UserError, naming the file, the field and `key`, for a configuration of a class of diffusers or
    transformers that is not understood: its fields, their types, and what `checkpoint` knows of the class."""
    place = f"{source}/{subfolder}" if subfolder else source
    hub = {"revision": revision} if revision else {}
    if hasattr(cls, "load_config"):  # of diffusers, which leaves out what it does not know
        config = cls.load_config(source, subfolder=subfolder, **hub)
        known = inspect.signature(cls.__init__).parameters
        checkpoint.check_known(config, known, f"{place}/config.json", key)
    elif cls.__name__ in checkpoint.CHECKS:
        config, _ = cls.config_class.get_config_dict(source, subfolder=subfolder or "", **hub)
    if check := checkpoint.CHECKS.get(cls.__name__):
        check(config, f"{place}/config.json", key)


def _weight_files(
    source: str, subfolder: str | None, revision: str | None, variant: str | None
) -> list[Path]:
    """The files of weights that a class loads from a folder or from the hub's copy on this disk: those of
    safetensors, and those of torch where there are none."""
    folder = Path(source, subfolder or "")
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        name = f"{subfolder}/config.json" if subfolder else "config.json"
        found = try_to_load_from_cache(source, name, revision=revision)
        if not isinstance(found, str):
            return []
        folder = Path(found).parent
    for kind in ("safetensors", "bin"):
        files = folder.glob(f"*.{kind}")
        if found := sorted(p for p in files if variants.variant_of(p.name) == (variant or "")):
            return found
    return []


def need_whole_tokenizer(tokenizer: Any, config: Any, place: str, key: str) -> None:
    """Raise UserError for a tokenizer that lacks tokens, or the pairs that make them, of its text encoder.

    An empty folder makes a tokenizer too, of the special tokens alone; a list of pairs that is cut makes
    other tokens of the same words.
    """
    size = int(config.get_text_config().vocab_size)
    known = tokenizer.get_vocab()
    if len(tokenizer) > size:
        raise UserError(
            f"the tokenizer in {place} has {len(tokenizer)} tokens, its text encoder vocab_size={size}: the "
            f"parts come from different models ({key})"
        )
    of_clip = type(tokenizer).__name__.startswith("CLIP")
    lacking = len(set(range(size)) - set(known.values()))
    length = tokenizer.model_max_length  # huge where the file does not say it
    if isinstance(length, bool) or not isinstance(length, int | float) or length < 3:
        raise UserError(
            f"{place}/tokenizer_config.json has model_max_length={length!r}: a whole number from 3 on is "
            f"understood ({key})"
        )
    if lacking > (0 if of_clip else PADDED):
        raise UserError(
            f"the tokenizer in {place} has {size - lacking} of the {size} tokens of its text encoder: a file "
            f"is missing or cut short ({key})"
        )
    if of_clip and (unmade := _without_pair(tokenizer, known)):
        raise UserError(
            f"the tokenizer in {place} has no pair that makes {len(unmade)} of its tokens ({some(unmade)}): "
            f"its merges are missing or cut short ({key})"
        )


def _without_pair(tokenizer: Any, known: Mapping[str, int]) -> list[str]:
    """Tokens of more than one letter that no pair of CLIP's makes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python, as transformers 4 has it
        pairs = [tuple(pair) for pair in tokenizer.bpe_ranks]
    else:
        merges = json.loads(backend.to_str())["model"]["merges"]
        pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
    made = {a + b for a, b in pairs} | set(tokenizer.all_special_tokens)
    return sorted(t for t in known if t not in made and len(t.removesuffix("</w>")) > 1)


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
    for part, made in found.items():
        if part.startswith("tokenizer"):
            encoder = found[part.replace("tokenizer", "text_encoder")]
            need_whole_tokenizer(made, encoder.config, f"{source}/{part}", options["key"])
    return found


def fill(module: Any, state: Mapping[str, Any], place: str, key: str, dtype: Any = None) -> None:
    """Load `state` into `module`, counters of batch normalisation apart; raises UserError where they do not
    fit and for numbers that are not finite.

    With a `dtype` the tensors take the places of the module's own, which may have no memory.
    """
    own = {n: v for n, v in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    wrong = [f"{n} {v.dtype}" for n, v in state.items() if n in own and not v.is_floating_point()]
    if wrong:
        raise UserError(
            f"{place} has {len(wrong)} tensors that are no floating-point numbers ({some(wrong)}) ({key})"
        )
    need_whole(
        place,
        key,
        missing=own.keys() - state.keys(),
        unexpected=state.keys() - own.keys(),
        mismatched=[n for n in own.keys() & state.keys() if own[n].shape != state[n].shape],
    )
    if dtype is not None:
        state = {n: v.to(dtype) for n, v in state.items() if n in own}
    module.load_state_dict(state, strict=False, assign=dtype is not None)
    need_finite(module, place, key)


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
    words = [f"{len(names)} {kind} ({some(names)})" for kind, names in found.items() if names]
    if words:
        raise UserError(f"the weights in {place} do not fit their model: {'; '.join(words)} ({key})")
