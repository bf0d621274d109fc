"""`study=showcase`: every seed is shown and counted, and what README shows is what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments import showcase
from sow.report import figures


def test_every_seed_is_shown_and_published(
    command_line: Callable,
    run_folders: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("head\n<!-- showcase:begin -->\nold\n<!-- showcase:end -->\ntail\n")
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(showcase, "README", readme)
    monkeypatch.setattr(figures, "into_docs", lambda *words: drawn.append(words))
    words = ["study=showcase", "study.seeds=2", "study.publish=true", "seed=3", "cycle.cycles=1"]
    result = command_line("experiment=debug", *words)
    assert result.status == 0, result.err
    (folder,) = run_folders()
    each = json.loads((folder / "metrics.json").read_text())["each"]
    assert [row["seed"] for row in each] == [3, 4]
    assert all((folder / f"seed_{n}" / "image.png").is_file() for n in (3, 4))
    assert drawn == [("showcase", folder / "showcase.png")]
    picture = Image.open(folder / "showcase.png")
    assert picture.width > 300 and picture.height > 300
    block = (folder / "showcase.md").read_text().strip()
    assert "Seeds 3 to 4" in block and "\n| 4 |" in block
    assert readme.read_text() == f"head\n<!-- showcase:begin -->\n{block}\n<!-- showcase:end -->\ntail\n"
