"""The first hour, recorded: `python -m tools.first_hour [PYTHON]` installs the wheel in a fresh environment,
makes the first pictures there, and writes docs/first_hour.md and the picture of the page (docs/demo.md).

It needs uv, a chromium, playwright, and what pip reaches; it takes minutes and 6 GB for as long as it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from sow.report.blocks import REPOSITORY, Made, publish
from sow.runs.records import git_revision

SIDE = 160  # pixels of a picture in the row of them
WIDTH = 640  # of the page's picture
INSTALL = "uv pip install -p fresh 'WHEEL[demo]'"
FACE = """from sow import compose

(condition,) = compose().condition.load(4)  # a drawn person of the embedded world
face = condition.image.copy()
face.putalpha(condition.mask)
face.save("face.png")
"""
SCRIPT = """import torch
from PIL import Image
from sow import SOWPipeline

pipe = SOWPipeline.from_pretrained("model")
made = pipe(
    "a person on a beach",
    Image.open("face.png"),
    box=[36, 16, 56, 56],
    generator=torch.Generator().manual_seed(1),
)
made.images[0].save("diffusers.png")
"""
FOLDER = "sow model=local model.path=model calibration=people condition.image=face.png condition.mask=none"
FOLDER += ' metrics=pixels seed=1 prompt="a person on a beach"'
SHOWN = re.compile(r"^(Resolved|Prepared|Installed|image:|done before|.*seconds in all)")


@dataclass(frozen=True)
class Said:
    """A command, the lines of it that are shown, and its seconds."""

    command: str
    lines: tuple[str, ...]
    seconds: float


Run = Callable[[str], Said]


@dataclass(frozen=True)
class Place:
    """A folder with a fresh environment `fresh/` in which commands are run as a newcomer types them."""

    folder: Path

    def run(self, command: str) -> Said:
        """Run it in a shell; raises RuntimeError where it fails."""
        began = time.perf_counter()
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment(), capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
        out = (done.stdout + done.stderr).replace(f"{self.folder}/", "")
        return Said(command, tuple(line.strip() for line in out.splitlines() if SHOWN.match(line)), seconds)

    def environment(self) -> dict[str, str]:
        """The user's, with the fresh environment's programs first and nothing of this checkout."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        path = f"{self.folder / 'fresh' / 'bin'}{os.pathsep}{kept.get('PATH', '')}"
        return kept | {"PATH": path, "WANDB_MODE": "offline"}

    @contextmanager
    def page(self) -> Iterator[str]:
        """The address of `sow demo`, running in this place."""
        words = ["sow", "demo", "port=0"]
        with subprocess.Popen(
            words, cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, text=True
        ) as served:
            assert served.stdout is not None
            try:
                said = next(line for line in served.stdout if "http" in line)
                yield said.split()[4]
            finally:
                served.send_signal(signal.SIGINT)


def record(root: Path, folder: Path, run: Run, shoot: Callable[[Path], None], python: str) -> None:
    """Do it all in `folder` and write it into the documentation below `root`.

    `run` runs a command there, `shoot` makes the picture of the page.
    """
    wheel = next(folder.glob("*.whl")).name
    began = time.perf_counter()
    done = {"install": [run(f"uv venv -q -p {python} fresh"), run(INSTALL.replace("WHEEL", wheel))]}
    size = sum(f.stat().st_size for f in (folder / "fresh").rglob("*") if f.is_file() and not f.is_symlink())
    done["first"] = [run("sow"), run("sow force=true"), run("sow")]
    (folder / "face.py").write_text(FACE)
    (folder / "script.py").write_text(SCRIPT)
    weights = next((folder / "fresh").glob("lib/*/site-packages/sow/people/weights"), None)
    if weights is not None:
        shutil.copytree(weights, folder / "model", dirs_exist_ok=True)
    done["folder"] = [run("python face.py"), run(FOLDER)]
    done["script"] = [run("python script.py")]
    _row(folder)
    shoot(folder / "demo.png")
    git = git_revision()
    commit = None if git is None else git["commit"][:10] + "+" * git["dirty"]
    day = datetime.now(UTC).date().isoformat()
    made = Made("python -m tools.first_hour", day, commit, 4, time.perf_counter() - began)
    publish("first_hour", _told(done, size), folder / "first_hour.png", root, made)
    told = "The embedded model: the box was dragged; images of the full method and without each of its parts."
    publish("demo", told, folder / "demo.png", root, made)


def shot(page: Any, file: Path) -> None:
    """Use the page that is open as a newcomer would: move the box, compare with the ablations, and take its
    picture."""
    page.wait_for_selector("#board canvas")
    planned = "document.querySelector('#told textarea').value.startsWith('planned')"
    page.wait_for_function(planned, timeout=300_000)  # the model is loaded first
    at = page.locator("#board canvas").bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] * 0.42, at["y"] + at["height"] * 0.32, steps=4)
    page.mouse.up()
    for row in range(3):
        page.locator("#rows label").nth(row).click()
    page.locator("#generate").click()
    done = "document.querySelector('#told textarea').value.startsWith('done')"
    page.wait_for_function(done, timeout=300_000)
    page.wait_for_function("document.querySelectorAll('#made img').length >= 4")
    page.wait_for_timeout(500)  # until its pictures are painted
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.save(file)


def _row(folder: Path) -> None:
    """What was made, side by side: the first picture, the face, and the two pictures of it."""
    runs = sorted(folder.glob("outputs/2*/*/image.png"), key=lambda f: f.stat().st_mtime)
    files = [runs[0], folder / "face.png", runs[-1], folder / "diffusers.png"]
    out = Image.new("RGB", (len(files) * (SIDE + 4) - 4, SIDE), "white")
    for i, file in enumerate(files):
        with Image.open(file) as image:
            picture = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        out.paste(picture, (i * (SIDE + 4), 0), picture)
    out.save(folder / "first_hour.png")


def _told(done: dict[str, list[Said]], size: int) -> str:
    """The recording as Markdown."""

    def console(*names: str) -> str:
        lines = ["```console"]
        for said in (s for name in names for s in done[name]):
            lines += [f"$ {said.command}", *said.lines, f"# {said.seconds:.0f} s"]
        return "\n".join([*lines, "```"])

    return "\n\n".join(
        [
            "## Install",
            f"The wheel in a fresh environment; {size / 1e9:.1f} GB, most of them PyTorch with CUDA.",
            console("install"),
            "## First picture",
            "The first start, the same again, and one that finds it done:",
            console("first"),
            "## A folder in Stable Diffusion's format",
            "Here the embedded model's own, copied to `model/`, and a face that this script cuts out:",
            f"```python\n{FACE}```",
            console("folder"),
            "## A script of diffusers",
            "The same face on the same folder; the pipeline has the paper's numbers, hence another picture:",
            f"```python\n{SCRIPT}```",
            console("script"),
            "From left to right: the first picture, the face, from the folder, from the script.",
            "![the pictures that were made](first_hour.png)",
        ]
    )


def main() -> None:
    """Record into this checkout."""
    from tests.browsing import browser

    python = sys.argv[1] if len(sys.argv) > 1 else f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="first-hour-") as name:
        place = Place(Path(name))
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", name]
        subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)

        def shoot(file: Path) -> None:
            with place.page() as address, browser() as started:
                page = started.new_context(viewport={"width": 1200, "height": 1000}).new_page()
                page.goto(address)
                shot(page, file)

        record(REPOSITORY, place.folder, place.run, shoot, python)


if __name__ == "__main__":
    main()
