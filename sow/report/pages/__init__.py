"""Static pages that need no server and no network: one folder each, opened from the disk (file://).

A page is `<name>.html`, `<name>.css` and `<name>.js` beside `data.js`, which sets `window.DATA`: a browser
reads no JSON from the disk, but it runs scripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.runs.records import jsonable

if TYPE_CHECKING:
    from sow.runs.records import RunFolder

PAGES = Path(__file__).parent


def write_page(folder: RunFolder, name: str, data: Mapping[str, Any], place: str) -> Path:
    """The page `name` with its data into `folder`/`place`; returns the path of its index.html."""
    for kind in ("css", "js"):
        folder.save_bytes(f"{place}/{name}.{kind}", (PAGES / f"{name}.{kind}").read_bytes())
    text = json.dumps(jsonable(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    folder.save_bytes(f"{place}/data.js", f"window.DATA = {text};\n".encode())
    return folder.save_bytes(f"{place}/index.html", (PAGES / f"{name}.html").read_bytes())
