"""The page of `sow demo` as Gradio's blocks, and what each of its buttons shows."""

from __future__ import annotations

import json
import logging
import os
import shlex
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from sow.apps.desk import FULL, ROWS, Desk, Wish, board, is_drawn, zipped
from sow.errors import UserError
from sow.report import text
from sow.runs.records import RunFolder
from sow.store.secrets import redact

log = logging.getLogger(__name__)

BOARD = """<div class="tools"><button type="button" data-tool="move">move, resize</button>
<button type="button" data-tool="box">draw a box</button>
<button type="button" data-tool="region">draw a related region</button></div>
<canvas width="512" height="512"></canvas><div class="told"></div>"""
LOOK = """canvas { width: 100%; max-width: 512px; touch-action: none; cursor: crosshair; display: block; }
button { border: 1px solid #999; border-radius: 6px; padding: 2px 10px; margin: 0 4px 6px 0; }
button, .told { font-size: 0.85em; }
button.on { background: #444; color: white; }
.told { margin-top: 4px; }"""
ABOUT = """# Selective One-Way Diffusion
Drop a picture or take the drawn person, type a prompt, **Plan**; move the box (red) and the related region
(green), pull their corners or draw them anew, then **Generate**."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def page(desk: Desk) -> gr.Blocks:
    """The whole page: what is asked, the board, what is made, and which button does what."""
    with gr.Blocks(title="sow demo", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                asked = _asked(desk)
            with gr.Column():
                drawing, intensified, plan = _board()
        rows = gr.CheckboxGroup(
            [(f"{name} ({row})", row) for row, name in ROWS.items() if row != FULL],
            label="beside the full method",
            elem_id="rows",
        )
        with gr.Row():
            generate = gr.Button("Generate", variant="primary", elem_id="generate")
            stop = gr.Button("Stop", elem_id="stop")
        told = gr.Textbox(label="what is happening", interactive=False, elem_id="told")
        made = _made()
        planning: dict[str, Any] = {
            "fn": partial(shown_plan, desk),
            "inputs": [*asked.values()],
            "outputs": [drawing, intensified, told],
            **QUIET,
        }
        for event in (plan.click, blocks.load, asked["picture"].change, asked["mask"].input):
            event(**planning)
        asked["person"].submit(**planning)
        running = generate.click(
            partial(generated, desk), [*asked.values(), drawing, rows], [told, *made], **QUIET
        )
        stop.click(lambda: "stopped", None, told, cancels=[running], queue=False, **QUIET)
    return blocks


def _asked(desk: Desk) -> dict[str, Any]:
    """The fields of a wish, in the order of `_wish`'s arguments."""
    config, people = desk.config, desk.draws_people
    tasks = sorted({"normal", "attribute", "style", config.task.name})
    asked: dict[str, Any] = {"prompt": gr.Textbox(config.prompt, label="prompt", lines=2, elem_id="prompt")}
    with gr.Row():
        asked["task"] = gr.Dropdown(tasks, value=config.task.name, label="task", min_width=100)
        asked["seed"] = gr.Number(
            config.seed, label="seed of the noise", precision=0, min_width=100, elem_id="seed"
        )
        asked["person"] = gr.Number(
            desk.person,
            label="drawn person (a seed)",
            precision=0,
            min_width=100,
            visible=people,
            elem_id="person",
        )
    asked["picture"] = gr.Image(
        type="filepath",
        image_mode=None,  # the file as it came
        sources=["upload", "clipboard"],
        height=200,
        label="picture to keep" + (" (none: the drawn person)" if people else ""),
        elem_id="picture",
        buttons=[],
    )
    asked["mask"] = gr.Radio(
        ["face", "none"], value="face", label="kept of the picture (none: all of it)", elem_id="mask"
    )
    return asked


def _board() -> tuple[gr.HTML, gr.Textbox, gr.Button]:
    """The canvas to draw on, the prompt that the planner made, and the button that plans."""
    script = Path(__file__).with_name("board.js").read_text(encoding="utf-8")
    drawing = gr.HTML("", html_template=BOARD, css_template=LOOK, js_on_load=script, elem_id="board")
    intensified = gr.Textbox(label="intensified prompt", interactive=False, elem_id="intensified")
    return drawing, intensified, gr.Button("Plan", elem_id="plan")


def _made() -> list[Any]:
    """What a run fills: the live image, the finished ones, their numbers, and the file."""
    with gr.Row():
        live = gr.Image(
            label="predicted after a cycle",
            interactive=False,
            format="png",
            elem_id="live",
            buttons=[],
            height=250,
        )
        images = gr.Gallery(
            label="images",
            format="png",
            columns=len(ROWS),
            object_fit="contain",
            elem_id="made",
            scale=3,
            buttons=["fullscreen"],
        )
    with gr.Accordion("numbers", open=False):
        numbers = gr.Markdown(elem_id="numbers")
    file = gr.DownloadButton("Download the run folders", interactive=False, elem_id="download")
    return [live, images, numbers, file]


def shown_plan(desk: Desk, *wishes: Any) -> Iterator[tuple[Any, Any, str]]:
    """The board, the intensified prompt and a word on it; the planner decides."""
    yield gr.skip(), gr.skip(), "planning; the first time, the model is loaded as well"
    try:
        request, plan, canvas = desk.plan(_wish(*wishes))
        yield board(request, plan, canvas), plan.prompt, f"planned ({plan.source})"
    except Exception as error:
        yield "", "", _told(error)


def generated(desk: Desk, *given: Any) -> Iterator[tuple[Any, ...]]:
    """What happens, the predicted image, the finished ones, their numbers and the file to download, moment by
    moment."""
    *wishes, drawing, rows = given
    done: dict[str, Path] = {}
    live: Any = None
    keep, none = gr.skip(), gr.update(value=None, interactive=False)
    yield "starting", None, [], "", none
    try:
        wish = _wish(*wishes)
        wish = replace(wish, board=drawing if is_drawn(drawing) else None)
        for seen in desk.follow(wish, [FULL, *(row for row in ROWS if row in (rows or []))]):
            words = f"{ROWS[seen.row]}: {seen.words}"
            live = seen.image if seen.image is not None else keep
            if seen.folder is None:
                yield words, live, keep, keep, keep
                continue
            done[seen.row] = seen.folder
            yield words, keep, _gallery(done), _table(done), keep
        file = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "sow_runs.zip"
        zipped(done, file, [] if wish.picture is None else [Path(wish.picture)])
        ready = gr.update(value=str(file), interactive=True)
        yield _command(done[FULL]), keep, keep, keep, ready
    except Exception as error:
        yield _told(error), keep, keep, keep, keep


def _told(error: Exception) -> str:
    """The one line of the command line's; of a fault of ours the log has the rest."""
    if isinstance(error, UserError):
        return f"error: {redact(str(error))}"
    log.error("%s", redact("".join(traceback.format_exception(error))))
    return f"error: {redact(' '.join(f'{type(error).__name__}: {error}'.split()))}; the terminal says where"


def _wish(
    prompt: str, task: str, seed: float | None, person: float | None, picture: str | None, mask: str
) -> Wish:
    return Wish(prompt or "", int(seed or 0), task, picture, mask, None if person is None else int(person))


def _gallery(done: dict[str, Path]) -> list[tuple[Image.Image, str]]:
    """The rows' images beside each other, then the full method's plan and cycles."""
    files = {}
    for row, folder in done.items():
        view = folder / "view.png"
        files[ROWS[row]] = view if view.is_file() else folder / "image.png"
    files |= {"the plan": done[FULL] / "canvas.png", "predicted after each cycle": done[FULL] / "cycles.png"}
    out = []
    for name, file in files.items():
        if file.is_file():  # a method without cycles has no picture of them
            with Image.open(file) as image:
                out.append((image.convert("RGB"), name))
    return out


def _table(done: dict[str, Path]) -> str:
    """The rows' numbers as Markdown, one column per row."""
    found = {row: json.loads((folder / "metrics.json").read_text()) for row, folder in done.items()}
    names = dict.fromkeys(n for one in found.values() for n, v in one.items() if isinstance(v, int | float))
    names.pop("seed", None)
    lines = [f"| | {' | '.join(ROWS[row] for row in found)} |", "| :-- |" + " --: |" * len(found)]
    for name in names:
        values = (text(one.get(name)) for one in found.values())
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} |")
    return "\n".join(lines)


def _command(folder: Path) -> str:
    words = RunFolder(folder).manifest().get("overrides", [])
    return f"done; the same again: {shlex.join(['sow', *words])}"
