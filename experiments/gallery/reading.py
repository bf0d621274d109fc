"""The pictures of finished runs by row and group: benchmark folders, and plain run folders of
`study=generate`.

A benchmark folder holds `rows.json` (name, label, marks, paper's numbers, overrides), `records.parquet` (row,
group, setting, seed, one column per metric) and `images/<row>/<group>-<seed>.png`; beside these, where it has
them, `table.json` (title, heads of the marks), `groups.json` (id, prompt, setting) and
`conditions/<group>.png` (of more conditions `<group>.1.png` and so on). Without the last two, prompt and
condition come from the data that the run's configuration names.
"""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.runs.records import MANIFEST, jsonable
from sow.store.files import place_of
from sow.store.fingerprint import sha256

from .pictures import (
    KEYS,
    Group,
    Picture,
    Pictures,
    Row,
    about_model,
    beside,
    on_gray,
    slug,
)

if TYPE_CHECKING:
    from PIL.Image import Image

RECORDS, ROWS, GROUPS, TABLE = "records.parquet", "rows.json", "groups.json", "table.json"
NO_ROW = ("seed", "prompt", "condition", "task", "study", "tracker", "force", "paths", "batch_size")


def paths_of(runs: Any) -> list[str]:
    """One path or a list of paths, as a study's `runs` is given, as a list."""
    return [str(path) for path in (runs if isinstance(runs, (list, tuple)) else [runs])]


def read_pictures(runs: Any, key: str, data: Any = None) -> Pictures:
    """The pictures under one path or several; `data` is the benchmark asked for what a run does not say of
    its groups.

    Raises UserError, naming the config key `key`, where a path is missing or holds no finished picture.
    """
    roots = [place_of(path, key) for path in paths_of(runs)]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"no folder {root}: give the folder of a benchmark or of runs ({key})")
    folders = list(dict.fromkeys(p.parent for root in roots for p in sorted(root.rglob(RECORDS))))
    parts = [_benchmark(folder, key, data) for folder in folders if (folder / "images").is_dir()]
    if not parts:
        parts = [_plain(roots, key)]
    return _merged(parts, key)


# A benchmark's folder.


def _benchmark(folder: Path, key: str, data: Any) -> Pictures:
    import pandas

    try:
        table = pandas.read_parquet(folder / RECORDS)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / RECORDS}: {error} ({key})") from error
    missing = [name for name in ("row", "group", "seed") if name not in table.columns]
    if missing:
        raise UserError(f"{folder / RECORDS} has no column {', '.join(missing)} ({key})")
    records = [{str(k): jsonable(v) for k, v in r.items()} for r in table.to_dict("records")]
    pictures, lost = [], 0
    for record in records:
        name = f"{record['group']}-{record['seed']}.png"
        path = folder / "images" / str(record["row"]) / name
        if not path.is_file():
            lost += 1
            continue
        metrics = {k: v for k, v in record.items() if k not in KEYS and not isinstance(v, str)}
        pictures.append(Picture(str(record["row"]), str(record["group"]), int(record["seed"]), path, metrics))
    if not pictures:
        raise UserError(f"{folder} has records of {lost} images but none of the images ({key})")
    settings = {str(r["group"]): str(r.get("setting") or "") for r in records}
    prompts = {str(r["group"]): str(r["prompt"]) for r in records if isinstance(r.get("prompt"), str)}
    manifest = _manifest_of(folder)
    groups = _groups(folder, settings, prompts, manifest.get("config") or {}, data)
    return Pictures(
        _rows(folder, pictures),
        groups,
        tuple(pictures),
        _about(manifest),
        str(_json(folder / TABLE).get("title", "")),
    )


def _rows(folder: Path, pictures: Iterable[Picture]) -> tuple[Row, ...]:
    found = list(dict.fromkeys(p.row for p in pictures))
    heads = _json(folder / TABLE).get("marks") or []
    rows = {}
    for name, row in _by_name(_json(folder / ROWS), "name").items():
        marks = [f"{head} {mark}" for head, mark in zip(heads, row.get("marks") or (), strict=False)]
        label = str(row.get("label") or "") or ", ".join(marks) or name
        words = row.get("overrides") or []
        note = words if isinstance(words, str) else " ".join(str(w) for w in words)
        rows[name] = Row(name, label, dict(row.get("paper") or {}), note)
    return tuple(rows[n] for n in rows if n in found) + tuple(Row(n, n) for n in found if n not in rows)


def _by_name(value: Any, key: str) -> dict[str, dict[str, Any]]:
    """A list of objects, or an object of objects, by name."""
    if isinstance(value, list):
        value = {str(v.get(key)): v for v in value if isinstance(v, Mapping)}
    return {str(k): dict(v) for k, v in value.items() if isinstance(v, Mapping)}


def _groups(
    folder: Path,
    settings: Mapping[str, str],
    prompts: Mapping[str, str],
    config: Mapping[str, Any],
    data: Any,
) -> dict[str, Group]:
    listed = _by_name(_json(folder / GROUPS), "id")
    known = {name: {"prompt": prompts.get(name, ""), **listed.get(name, {})} for name in settings}
    shown = {name: folder / "conditions" / f"{name}.png" for name in settings}
    whole = all(known[name]["prompt"] and shown[name].is_file() for name in settings)
    found = {} if whole else _from_data(config, data, set(settings))
    out = {}
    for name, k in known.items():
        prompt = k["prompt"]
        condition: Callable[[], Image | None] | None = None
        if name in found:
            prompt = prompt or found[name].request.prompt
            condition = cache(lambda c=found[name].request.conditions: on_gray(c))
        if shown[name].is_file():
            more = sorted(
                shown[name].parent.glob(f"{glob.escape(name)}.*.png")
            )  # of several visual conditions
            condition = cache(lambda paths=(shown[name], *more): beside([_opened(p) for p in paths]))
        out[name] = Group(name, settings[name] or str(k.get("setting", "")), prompt, condition)
    return out


def _from_data(config: Mapping[str, Any], data: Any, wanted: set[str]) -> dict[str, Any]:
    """The benchmark's own groups by id, as far as they can be had: the run's data,
    else the configured one."""
    from sow.config.schema import instantiate

    if isinstance(config.get("data"), Mapping):
        with contextlib.suppress(UserError, TypeError):  # the data of another version or machine
            data = instantiate(dict(config["data"]), "data")
    if data is None:
        return {}
    for split in ("validation", "test", "all"):
        try:
            found = {g.id: g for g in data.groups(split) if g.id in wanted}
        except UserError:
            return {}
        if found.keys() == wanted or split == "all":
            return found
    return {}


# Plain run folders.


def _plain(roots: Sequence[Path], key: str) -> Pictures:
    """One row per set of overrides that the runs do not share, one group per prompt, condition and seed."""
    found = list(_images(roots))
    if not found:
        raise UserError(
            f"no finished run under {', '.join(map(str, roots))}: need records.parquet with images/, or "
            f"folders with image.png and {MANIFEST} ({key})"
        )
    words = {run: _row_words(manifest) for run, manifest, _ in found}
    shared = set.intersection(*(set(w) for w in words.values())) if len(set(words.values())) > 1 else set()
    rows: dict[str, Row] = {}
    groups: dict[str, Group] = {}
    pictures = []
    for run, manifest, path in found:
        label = " ".join(w for w in words[run] if w not in shared) or "as composed"
        rows.setdefault(label, Row(label, label, {}, " ".join(manifest.get("overrides", []))))
        metrics = _object(path.with_name("metrics.json"))
        seed = int(metrics.get("seed", manifest.get("seed", 0)))
        group = _plain_group(manifest, seed, path)
        groups.setdefault(group.id, group)
        numbers = {k: v for k, v in metrics.items() if k != "seed" and not isinstance(v, (str, list, dict))}
        pictures.append(Picture(label, group.id, seed, path, numbers))
    about = "; ".join(dict.fromkeys(_about(manifest) for _, manifest, _ in found))
    return Pictures(tuple(rows.values()), groups, tuple(pictures), about)


def _images(roots: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any], Path]]:
    """(run folder, its manifest, image), runs oldest first."""
    runs = {p.parent: _object(p) for root in roots for p in root.rglob(MANIFEST)}
    for run in sorted(runs, key=lambda run: (str(runs[run].get("finished", "")), str(run))):
        manifest = runs[run]
        for path in sorted(run.rglob("image.png")):
            if (path.with_name("metrics.json")).is_file():
                yield run, manifest, path


def _row_words(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    words = (str(w) for w in manifest.get("overrides", ()))
    return tuple(w for w in words if w.lstrip("+").partition("=")[0].partition(".")[0] not in NO_ROW)


def _plain_group(manifest: Mapping[str, Any], seed: int, path: Path) -> Group:
    config = manifest.get("config") or {}
    prompt, task = str(config.get("prompt", "")), str((config.get("task") or {}).get("name", ""))
    condition = dict(config.get("condition") or {})
    # A showcase draws a condition for each seed; other studies draw one for the run's.
    showcase = (manifest.get("choices") or {}).get("study") == "showcase"
    drawn_for = seed if showcase else manifest.get("seed", 0)
    what = json.dumps([prompt, task, condition, drawn_for], sort_keys=True, default=str)

    def shown() -> Image | None:
        from sow.config.schema import instantiate
        from sow.runs.earlier import current

        try:
            return on_gray(instantiate(current(condition), "condition").load(drawn_for))
        except UserError:  # the photograph has gone since: the plan's canvas shows it
            return _opened(path.with_name("canvas.png"))

    return Group(f"{slug(prompt)[:40]}-{sha256(what)[:6]}", task, prompt, shown)


# Both kinds.


def _merged(parts: Sequence[Pictures], key: str) -> Pictures:
    """Parts of one table, such as shards, as one; raises UserError where two hold the same picture."""
    rows: dict[str, Row] = {}
    groups: dict[str, Group] = {}
    seen: dict[tuple[str, str, int], Path] = {}
    for part in parts:
        for row in part.rows:
            rows.setdefault(row.name, row)
        for name, group in part.groups.items():
            groups.setdefault(name, group)
        for p in part.pictures:
            place = (p.row, p.group, p.seed)
            if place in seen:
                raise UserError(
                    f"{seen[place]} and {p.path} are both row {p.row}, group {p.group}, seed {p.seed}: give "
                    f"folders that do not overlap ({key})"
                )
            seen[place] = p.path
    about = "; ".join(dict.fromkeys(p.about for p in parts if p.about))
    title = "; ".join(dict.fromkeys(p.title for p in parts if p.title))
    return Pictures(
        tuple(rows.values()), groups, tuple(p for part in parts for p in part.pictures), about, title
    )


def _manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of this folder or the nearest one above; {} without one."""
    for place in (folder, *folder.parents[:2]):
        manifest = _object(place / MANIFEST)
        if "config" in manifest:
            return manifest
    return {}


def _about(manifest: Mapping[str, Any]) -> str:
    model = (manifest.get("config") or {}).get("model")
    return about_model(manifest.get("choices") or {}, model) if isinstance(model, Mapping) else ""


def _json(path: Path) -> Any:
    """What the file holds; {} if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}


def _object(path: Path) -> dict[str, Any]:
    """The JSON object that the file holds; {} where there is none."""
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _opened(path: Path) -> Image | None:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except Exception:  # whatever a damaged file makes of its decoder
        return None
