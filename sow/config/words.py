"""The words of a command line as people type them, written in Hydra's grammar.

A free-text key takes what stands behind its `=` as it is, `-m` or not: quotes, commas, brackets, `${...}` and
numbers are letters. It is swept by `prompt=choice('a','b')`, or by `prompt=@file` with one text per line. A
text that is in quotes as a whole, as Hydra writes it, loses them, so that a word read twice is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sow.config.places import CONF
from sow.errors import MISSING, UserError
from sow.store.files import place_of

GUIDANCE = ("negative_prompt", "suppress_prompt", "enhance_prompt", "preserve_negative_prompt")
PROMPTS = (
    "prompt",
    "data.prompt",
    "inversion.negative_prompt",
    *(f"guidance.{name}" for name in GUIDANCE),
)
PATHS = (
    "cache.folder",
    "condition.image",
    "condition.mask",
    "data.prompts",
    "data.root",
    "metrics.cache_dir",
    "metrics.parts.clip.cache_dir",
    "metrics.parts.clip.pretrained",
    "metrics.parts.faces.weights",
    "metrics.pretrained",
    "metrics.weights",
    "method.cache",
    "method.controlnet",
    "method.path",
    "model.lora",
    "model.path",
    "model.unet_path",
    "paths.outputs",
    "planner.path",
    "planner.prompt_version",
    "planner.store",
    "planner.tokenizer",
    "study.answers",
    "study.folder",
    "study.key",
    "study.output",
    "study.runs",
    "study.start",
    "study.tables",
    "study.training",
)  # `null` keeps its meaning there, and `[a, b]` that is no file is a list
FREE_TEXT = (*PROMPTS, *PATHS)
NEVER_EMPTY = ("prompt", *PATHS)  # an empty path would be the folder that one happens to be in
URLS = ("planner.base_url",)  # literal but for `${..}`, and `null` keeps its meaning
FOLDERS_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")  # literal but for `${..}`
SEVERAL = ("ablation",)  # the groups that take a list of options
OPEN = (
    "condition.attributes.",
)  # mappings without fixed names: what is given there is laid over, and checked by name
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_WORD = re.compile(
    r"(?P<sign>\+\+|\+|~)?(?P<key>[^=@]+)(?P<package>@[^=]*)?(?P<equals>=)?(?P<value>.*)", re.DOTALL
)


def read(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The words in Hydra's grammar, all ablations in one that comes last; `folders` hold the groups' options.

    Reading what was read changes nothing. Raises UserError for an empty text, an unknown option of a group
    and a list of prompts that cannot be read.
    """
    read_words: list[str] = []
    ablations: list[str] = []
    for word in map(str, words):
        found = _WORD.fullmatch(word)
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes that Python could not read
            raise UserError(f"{ascii(word)} is no text in UTF-8 ({ascii(word.partition('=')[0])})")
        if word.lstrip("+~").startswith("="):
            raise UserError(f"{word} has no key: words are key=value or group=option")
        if found is None or found["equals"] is None:
            read_words.append(word)
            continue
        sign, key, value = found["sign"] or "", found["key"].strip(), found["value"]
        if key in FREE_TEXT and found["package"]:
            raise UserError(f"{key}{found['package']} is no key: leave {found['package']} out ({key})")
        if key in FREE_TEXT:
            read_words.append(f"{sign}{key}={_free_text(key, value)}")
        elif key in URLS:
            read_words.append(f"{sign}{key}={_url(key, value)}")
        elif key in FOLDERS_OF_HYDRA:
            read_words.append(f"{sign}{key}={_folder(key, value)}")
        elif key == "ablation":
            ablations.append(value)
        elif key.startswith(OPEN):
            read_words.append(f"++{key}={value}")
        elif "/" in key and (value.strip()[:1] == "[" or value.strip() in ("", "null") or value.isdigit()):
            raise UserError(f"{key}={value} is no option: name one ({key})")
        else:
            if options := _options(key, folders):
                _check_options(key, value, options)
            read_words.append(f"{sign}{key}{found['package'] or ''}={value}")
    return [*read_words, *_merged(ablations, folders)]


def key_of(word: str) -> str:
    """`+group=option` -> group."""
    return word.lstrip("+~").partition("=")[0]


def encode(text: str) -> str:
    """A text that Hydra's grammar and OmegaConf's interpolation take as it stands."""
    from hydra.core.override_parser.types import Quote, QuotedString

    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return str(QuotedString(escaped, Quote.single).with_quotes())


def decode(text: str) -> str:
    """The text of a value that is in quotes as a whole; any other as it is."""
    if not _QUOTED.fullmatch(text):
        return text
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return _literal(str(OverridesParser.create().parse_override(f"text={text}").value()))


def from_sweeper(word: str, escaped: bool) -> str:
    """A sweeper's word for a job: Hydra's own writes a text without quotes and `escaped`,
    Optuna's as it is."""
    found = _WORD.fullmatch(word)
    key, value = (found["key"], found["value"]) if found else ("", "")
    if key in URLS and value != "null" and not _QUOTED.fullmatch(value):
        return f"{key}={_resolved(_unescaped(value) if escaped else value)}"
    if key not in FREE_TEXT or _QUOTED.fullmatch(value) or (key in PATHS and value.startswith(("[", "null"))):
        return word
    return f"{key}={encode(_literal(_unescaped(value) if escaped else value))}"


def _unescaped(text: str) -> str:
    """A text as it was before Hydra's sweeper wrote it without quotes."""
    return re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", text)


def _literal(text: str) -> str:
    """The text that OmegaConf makes of one in which `${` is escaped."""
    return re.sub(r"((?:\\\\)*)\\\$\{", lambda found: "\\" * (len(found[1]) // 2) + "${", text)


def elements(text: str) -> list[str]:
    """What commas part in `a, 'b, c', [d, e]`, quotes and brackets kept together,
    without the spaces around."""
    parts, depth, quote, start = [], 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            before = text[start:i]
            if letter == quote and (len(before) - len(before.rstrip("\\"))) % 2 == 0:
                quote = ""
        elif letter in "'\"" and not text[start:i].strip(" [("):
            quote = letter
        elif letter in "[({":
            depth += 1
        elif letter in "])}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:])]


def _free_text(key: str, value: str) -> str:
    if key in NEVER_EMPTY and not decode(value).strip():
        raise _empty(key)
    listed = key in PATHS and not _there(value)
    if value.startswith("choice(") and value.endswith(")"):
        texts = elements(value[7:-1])
        for text in texts:
            if re.fullmatch(r"(['\"]).*\\\1.*\1", text, re.DOTALL) and not _QUOTED.fullmatch(text):
                raise UserError(
                    f"{key}=choice(..) holds {text}, whose quotes do not match: in quotes a \\ at the end of "
                    f"a text is written twice ({key})"
                )
        return f"choice({','.join(_written(key, decode(v)) for v in texts)})"
    if value.startswith("@") and (key in PROMPTS or listed):
        texts = [_written(key, line) for line in _lines(key, value[1:])]
        return texts[0] if len(texts) == 1 else f"choice({','.join(texts)})"
    if key in PATHS and value == "null":
        return value
    if listed and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_written(key, decode(v)) for v in elements(value[1:-1]) if v)}]"
    return _written(key, decode(value))


def _folder(key: str, value: str) -> str:
    if value.strip(" '\"") in ("", "null"):
        raise _empty(key)
    return _resolved(value)


def _url(key: str, value: str) -> str:
    if value == "null":
        return value
    if value.startswith("choice(") and value.endswith(")"):
        return f"choice({','.join(_url(key, text) for text in elements(value[7:-1]))})"
    if not value.strip(" '\""):
        raise _empty(key)
    return _resolved(value)


def _resolved(value: str) -> str:
    """A text in quotes, in which Hydra resolves `${..}` and takes anything else as it stands."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString

    if _QUOTED.fullmatch(value):
        value = str(OverridesParser.create().parse_override(f"text={value}").value())
    return str(QuotedString(value, Quote.single).with_quotes())


def _written(key: str, text: str) -> str:
    if text == MISSING:  # which no escape makes a text
        raise UserError(f"{key}={text} is Hydra's mark for a missing value: write it otherwise ({key})")
    return encode(text)


def _there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a name too long for a file
        return False


def _lines(key: str, name: str) -> Iterator[str]:
    try:
        text = place_of(name, key).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{key}=@{name} names a file with one text per line, which cannot be read: {error}; put a text "
            f"that begins with @ in quotes ({key})"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    if not any(lines):
        raise UserError(f"{key}=@{name} is an empty file: write one text per line ({key})")
    return (line for line in lines if line)


def _empty(key: str) -> UserError:
    return UserError(f"{key} has no value: give {key}=... ({key})")


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a group; [] for a key that is none."""
    if not re.fullmatch(r"\w+", group):
        return []
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def _check_options(group: str, value: str, options: Sequence[str]) -> None:
    """Raise UserError unless the value names options: one, a sweep, or a list where the group takes several;
    what Hydra computes is left to it."""
    text = value.strip()
    if group not in SEVERAL and (CONF / group).is_dir() and any(v[:1] == "[" for v in _swept(text)):
        raise UserError(
            f"{group}={value} is no option: {group} takes one and not a list, choose one of "
            f"{', '.join(options)} ({group})"
        )
    if text.startswith("choice(") and text.endswith(")"):
        text = text[7:-1]
    if "(" in text or "$" in text:
        return
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    for name in map(decode, elements(text)):
        closed = name.startswith("[") and name.endswith("]")
        if closed and text == value.strip().removeprefix("choice(").removesuffix(")"):
            _check_options(group, name, options)  # of a sweep of lists
        elif name not in options:
            names = ", ".join(options) + (", or leave it out" if name == "null" else "")
            raise UserError(f"{group}={value} is no option: choose one of {names} ({group})")


def _swept(text: str) -> list[str]:
    """The values of a sweep, of a single one that one."""
    inner = text[7:-1] if text.startswith("choice(") and text.endswith(")") else text
    return elements(inner)


def _merged(ablations: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """All ablations in one word, since Hydra takes a group that is added once;
    a sweep of them stands alone."""
    for value in ablations:
        _check_options("ablation", value, _options("ablation", folders))
    if len(ablations) <= 1:
        return [f"+ablation={value}" for value in ablations]
    names = []
    for value in ablations:
        if len(elements(value)) > 1 or "(" in value:
            raise UserError(
                f"ablation={value} is a sweep beside another ablation: give one of them (ablation)"
            )
        names += [decode(name) for name in elements(value.strip().removeprefix("[").removesuffix("]"))]
    return [f"+ablation=[{','.join(dict.fromkeys(names))}]"]
