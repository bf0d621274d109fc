"""The manifest of a data set made from files on this disk: what was used,
kept so that a change is noticed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sow.errors import UserError
from sow.runs.records import RunFolder
from sow.store.file_hashes import file_sha256
from sow.store.fingerprint import sha256
from sow.store.store import shared_folder

log = logging.getLogger(__name__)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes; raises UserError where it cannot be read."""
    try:
        return file_sha256(path)
    except UserError as error:
        raise UserError(f"{error} (data.root)") from error


def manifest_path(name: str, root: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Where the manifest of this data set in this folder is kept; None where nothing is kept."""
    place = shared_folder()
    if place is None:
        return None
    where = sha256(str(root.resolve()))[:8]
    return place / "data" / f"{name}-{manifest['sha256'][:12]}-{where}.json"


def keep(name: str, root: Path, manifest: Mapping[str, Any], files: Mapping[str, list[str]]) -> None:
    """Store `manifest` with the hashes of the image and masks behind each key of `files`, beside those kept
    earlier.

    Raises UserError where a file is not the one that an earlier manifest holds: numbers would not be
    comparable.
    """
    path = manifest_path(name, root, manifest)
    if path is None:
        return
    try:
        known = dict(json.loads(path.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = {}
    changed = [key for key, hashes in files.items() if known.get(key, hashes) != hashes]
    if changed:
        raise UserError(
            f"{len(changed)} images or masks in {root} changed since {path} was written, the first is "
            f"{changed[0]}: restore them, or delete that manifest to begin anew (data.root)"
        )
    if not files.keys() <= known.keys():
        whole = {**manifest, "root": str(root), "files": {**known, **files}}
        try:
            RunFolder(path.parent).save_json(path.name, whole)
        except UserError as error:  # a later change of these files will not be noticed
            log.warning("%s", error)
