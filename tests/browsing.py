"""A real headless browser for the tests of pages, and a benchmark's folder to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium through playwright; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    pytest.importorskip("playwright", reason="no playwright (uv sync --group browser)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(page_file: Path, started: Any, **options: Any) -> Iterator[Any]:
    """The page from the disk in a context without a network;
    fails on an error in it or on any request elsewhere."""
    context = started.new_context(offline=True, **options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def failed(request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page went away before an image had come
            wrong.append(f"failed: {request.url} {request.failure}")

    page.on("requestfailed", failed)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url)
        ),
    )
    page.goto(page_file.as_uri())
    try:
        yield page
    finally:
        context.close()
    assert not wrong, wrong


def benchmark(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """A benchmark's folder with one plain-coloured image a record; with prompts also conditions."""
    for i, record in enumerate(records):
        place = folder / "images" / record["row"]
        place.mkdir(parents=True, exist_ok=True)
        color = (37 * i % 256, 91 * i % 256, 151 * i % 256)
        Image.new("RGB", (32, 32), color).save(place / f"{record['group']}-{record['seed']}.png")
    pandas.DataFrame(list(records)).to_parquet(folder / "records.parquet")
    (folder / "rows.json").write_text(json.dumps(list(rows)))
    if prompts is not None:
        (folder / "conditions").mkdir()
        for name in prompts:
            Image.new("RGB", (16, 16), "red").save(folder / "conditions" / f"{name}.png")
        (folder / "groups.json").write_text(json.dumps({n: {"prompt": p} for n, p in prompts.items()}))
    return folder
