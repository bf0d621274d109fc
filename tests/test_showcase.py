"""`study=showcase`: every seed is shown and counted, and what the documentation shows is what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sow.report import blocks


def test_every_seed_is_shown_and_published(
    command_line: Callable,
    run_folders: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    published: list[tuple[Any, ...]] = []
    monkeypatch.setattr(blocks, "publish", lambda *words, **_: published.append(words))
    words = ["study=showcase", "study.seeds=2", "study.publish=true", "seed=3", "cycle.cycles=1"]
    result = command_line("experiment=debug", *words)
    assert result.status == 0, result.err
    (folder,) = run_folders()
    each = json.loads((folder / "metrics.json").read_text())["each"]
    assert [row["seed"] for row in each] == [3, 4]
    assert all((folder / f"seed_{n}" / "image.png").is_file() for n in (3, 4))
    picture = Image.open(folder / "showcase.png")
    assert picture.width > 300 and picture.height > 300
    block = (folder / "showcase.md").read_text()
    assert "Seeds 3 to 4" in block and "\n| 4 |" in block
    assert published == [("showcase", block, folder / "showcase.png")]
