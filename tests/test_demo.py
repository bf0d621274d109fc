"""`sow demo`: wishes are command lines, drawn boxes are plans, and the page works in a real browser without a
request to anywhere else."""

from __future__ import annotations

import json
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as Asking
from urllib.request import urlopen

import numpy as np
import pytest
from browsing import browser
from PIL import Image

from experiments.core.study import run_job
from sow.apps import demo
from sow.apps.desk import FULL, ROWS, Desk, Wish, board, drawn, is_drawn, laid_over, zipped
from sow.config.compose import compose
from sow.errors import UserError
from sow.pipeline.factory import build
from tools.first_hour import shot

PLAIN = Wish("a person in a forest", 3, "normal", person=3)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """On the model of random weights, two cycles."""
    outputs = tmp_path_factory.mktemp("demo") / "outputs"
    return Desk(["experiment=debug", "cycle.cycles=2", f"paths.outputs={outputs}"], run_job)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "a cat's, face.PNG"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    return file


def changed(desk: Desk, wish: Wish = PLAIN, **changes: Any) -> Wish:
    """The wish with the planner's board changed as the page's script would."""
    shown = json.loads(board(*desk.plan(wish)))
    return replace(wish, board=json.dumps({**shown, "drawn": True, **changes}))


@pytest.mark.parametrize(
    "prompt", ["@/etc/hostname", "choice(a,b)", "'quoted'", "${oc.env:HOME}", "a, [b] = {c}", "null", "3"]
)
def test_a_prompt_is_letters(desk: Desk, prompt: str) -> None:
    assert compose(desk.wished(replace(PLAIN, prompt=prompt))).prompt == prompt


def test_words_are_laid_over_words() -> None:
    base = ["planner=heuristic", "planner.margin=0.1", "seed=1", "+ablation=no_dam", "gate.tau=0.2"]
    assert laid_over(base, ["planner=replay", "seed=2", "+ablation=no_pi"]) == [
        *("+ablation=no_dam", "gate.tau=0.2", "planner=replay", "seed=2", "+ablation=no_pi"),
    ]


def test_a_job_is_the_command_line_s_and_tells_of_its_cycles(desk: Desk, picture: Path) -> None:
    wish = replace(PLAIN, picture=str(picture), mask="none")
    seen = list(desk.follow(wish, [FULL]))
    cycles = [s.words for s in seen if s.image is not None]
    assert cycles == ["after cycle 1 of 2", "after cycle 2 of 2"]
    folder = seen[-1].folder
    assert folder is not None and (folder / "manifest.json").is_file()
    words = json.loads((folder / "manifest.json").read_text())["overrides"]
    config = compose(words)
    assert Path(config.condition.image).read_bytes() == picture.read_bytes()
    (sample,) = build(config).generate(build_requests(config))
    assert np.array_equal(np.asarray(sample.image), np.asarray(Image.open(folder / "image.png")))
    assert [s.folder for s in desk.follow(wish, [FULL])] == [None, folder]  # found, not made again


def build_requests(config: Any) -> list[Any]:
    from sow.types import Request

    return [Request(config.condition.load(config.seed), config.prompt, config.task.name, config.seed)]


def test_a_drawn_plan_is_run_and_compared(desk: Desk) -> None:
    wish = changed(desk, boxes=[[8, 16, 48, 48]], related=[[0, 64, 128, 64]])
    folders = {s.row: s.folder for s in desk.follow(wish, list(ROWS)) if s.folder is not None}
    plans = {row: json.loads((f / "plan.json").read_text()) for row, f in folders.items()}
    assert list(plans) == list(ROWS)
    for row in (FULL, "no_dam", "no_pi"):
        assert plans[row]["boxes"] == [[8, 16, 48, 48]] and plans[row]["related"] == [[0, 64, 128, 64]]
    assert plans["no_ap"]["boxes"] != plans[FULL]["boxes"]
    assert plans["no_pi"]["prompt"] == wish.prompt
    file = zipped(folders, desk.outputs / "runs.zip")
    names = zipfile.ZipFile(file).namelist()
    assert {f"{row}/image.png" for row in ROWS} <= set(names) and not any("/." in n for n in names)


def test_a_drawn_box_is_made_legal_or_refused(desk: Desk) -> None:
    _, plan, canvas = desk.plan(PLAIN)
    far = json.dumps({"boxes": [[3, 9, 50, 45]], "related": [[100, 100, 20, 20]], "drawn": True})
    made = drawn(far, plan, canvas)
    assert made.boxes[0].w % canvas.factor == 0 and made.prompt == plan.prompt
    assert any(r.intersection(made.boxes[0]) or r.x <= made.boxes[0].right for r in made.related)
    for wrong in ("", "[]", '{"boxes": 3}', '{"boxes": [[0, 0, 900, 9]], "related": []}'):
        with pytest.raises(UserError, match="box"):
            drawn(wrong, plan, canvas)
    with pytest.raises(UserError, match="off the canvas"):
        drawn('{"boxes": [[0, 0, 48, 48]], "related": [[500, 0, 9, 9]]}', plan, canvas)
    assert is_drawn(far) and not is_drawn("") and not is_drawn(None)


def ended() -> None:
    """Wait until no job is at work."""
    for thread in threading.enumerate():
        if thread.name == "sow demo":
            thread.join(30)
            assert not thread.is_alive()


def test_nobody_listening_ends_the_job(desk: Desk) -> None:
    before = set(desk.outputs.glob("*/*"))
    moments = desk.follow(replace(PLAIN, seed=99), [FULL])
    for _ in range(3):
        next(moments)
    moments.close()
    ended()
    assert set(desk.outputs.glob("*/*")) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": " "}, "prompt has no value"),
        ({"seed": -1}, "seed"),
        ({"task": "drawing"}, "drawing"),
        ({"picture": "/no/such.png"}, "condition.image"),
        ({"picture": __file__}, "condition.image"),
        ({"mask": "face", "picture": "noise"}, "no face found"),
        (
            {"board": '{"boxes": [[-9, 0, 48, 48]], "related": [], "drawn": true}'},
            "leaves the 128 x 128 canvas",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line(desk: Desk, picture: Path, changes: dict[str, Any], told: str) -> None:
    page = pytest.importorskip("sow.apps.page", reason="no gradio (pip install '.[demo]')")
    wish = replace(PLAIN, **changes)
    file = str(picture) if wish.picture == "noise" else wish.picture
    given = (wish.prompt, wish.task, wish.seed, wish.person, file, wish.mask, wish.board, [])
    *_, last = page.generated(desk, *given)
    assert last[0].startswith("error: ") and told in last[0] and "\n" not in last[0]
    assert not [f for f in desk.outputs.glob("*/*-full-*") if not (f / "manifest.json").is_file()]


def test_a_configuration_without_a_picture_asks_for_one(desk: Desk) -> None:
    other = Desk([*desk.words, "condition=photo"], run_job)
    with pytest.raises(UserError, match="drop a picture first"):
        other.wished(PLAIN)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["port=http"], "port=http is no port"),
        (["port=70000"], "port=70000 is no port"),
        (["-m"], "-m is no word of the demo"),
        (["sead=3", "port=0"], "sead"),
    ],
)
def test_words_of_the_demo(
    command_line: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    result = command_line("demo", *words)
    assert result.status == 1 and result.err.startswith("error: ") and told in result.err
    assert result.err.count("\n") == 1


def test_without_gradio_one_line_says_how_to_get_it(
    command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = command_line("demo", "port=0")
    assert result.status == 1 and "pip install '.[demo]'" in result.err and result.err.count("\n") == 1


@pytest.fixture(scope="module")
def served(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address."""
    pytest.importorskip("gradio", reason="no gradio (pip install '.[demo]')")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    app = demo.launch(desk)
    yield f"http://{demo.HOST}:{app.server_port}"
    app.close(verbose=False)
    patch.undo()


def status(address: str, data: dict[str, Any] | None = None, **headers: str) -> int:
    body = None if data is None else json.dumps(data).encode()
    try:
        with urlopen(Asking(address, body, {"Content-Type": "application/json", **headers})) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_files_and_other_hosts_are_refused(served: str, desk: Desk) -> None:
    assert status(served) == 200
    assert status(served, Host="example.org") == 403
    for path in ("/etc/hostname", Path(__file__), "http://127.0.0.1:9/x", desk.outputs / ".index"):
        assert status(f"{served}/gradio_api/file={path}") in (403, 404)
    with urlopen(f"{served}/config") as answer:
        functions = [f for f in json.load(answer)["dependencies"] if len(f["inputs"]) > 5]
    assert len(functions) > 2
    for function in functions:  # a file of the machine in an upload's place
        upload = {"path": str(Path(__file__)), "meta": {"_type": "gradio.FileData"}}
        data = ["a person", "normal", 0, 0, upload, "none", "", []][: len(function["inputs"])]
        call = {"data": data, "fn_index": function["id"], "session_hash": f"s{function['id']}"}
        assert status(f"{served}/gradio_api/run/predict", call) == 404
        assert status(f"{served}/gradio_api/queue/join", call) == 200
        with urlopen(f"{served}/gradio_api/queue/data?session_hash={call['session_hash']}") as told:
            messages = [json.loads(line[6:]) for line in told.read().decode().splitlines() if "{" in line]
        (done,) = [m for m in messages if m["msg"] == "process_completed"]
        assert not done["success"] and "not uploaded by a user" in done["output"]["error"]


def wait(page: Any, begins: str, seconds: float = 60) -> str:
    """What the page says is happening, once it begins with `begins`."""
    end = time.monotonic() + seconds
    while not (words := page.locator("#told textarea").input_value()).startswith(begins):
        assert time.monotonic() < end and (begins == "error" or not words.startswith("error")), words
        page.wait_for_timeout(30)
    return str(words)


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the board between two places, as fractions of its sides."""
    page.locator("#board canvas").scroll_into_view_if_needed()
    at = page.locator("#board canvas").bounding_box()
    (x, y), (u, v) = ((at["x"] + a * at["width"], at["y"] + b * at["height"]) for a, b in (start, end))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + u) / 2, (y + v) / 2)
    page.mouse.move(u, v)
    page.mouse.up()


def test_the_page_in_a_browser(served: str, desk: Desk, picture: Path, tmp_path: Path) -> None:
    wrong: list[str] = []
    with browser() as started:
        page = started.new_context(viewport={"width": 1200, "height": 1400}).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((served, "data:", "blob:")) else wrong.append(asked.url)
            ),
        )
        page.goto(served)
        page.wait_for_selector("#board canvas")
        wait(page, "planned (fixed)")
        told = page.locator("#board .told")
        assert told.inner_text().startswith("box [32, 0, 64, 64]") and "as planned" in told.inner_text()
        drag(page, (0.5, 0.25), (0.25, 0.5))  # the box, by its middle
        assert told.inner_text().startswith("box [0, 32, 64, 64]") and "drawn by you" in told.inner_text()
        drag(page, (0.5, 0.75), (0.4, 0.65))  # its lower right corner
        assert told.inner_text().startswith("box [0, 32, 48, 48]")
        page.get_by_role("button", name="draw a related region").click()
        drag(page, (0.99, 0.01), (0.5, 0.2))
        assert "related region [64, 0, 64, 24]" in told.inner_text()

        page.locator("#prompt textarea").fill("a person on a beach")
        page.locator("#rows label").nth(0).click()
        page.locator("#generate").click()
        words = wait(page, "done")
        assert "prompt=a person on a beach" in words and "planner=replay" in words
        page.wait_for_selector("#made img")
        assert page.locator("#made img").count() == 4 and page.locator("#live img").count() == 1
        with page.expect_download() as loading:
            page.locator("#download").click()
        loading.value.save_as(tmp_path / "runs.zip")

        page.locator("#seed input").fill("7")
        page.locator("#generate").click()
        wait(page, "full method")
        page.locator("#stop").click()
        wait(page, "stopped")
        ended()

        page.locator("#prompt textarea").fill("")
        page.locator("#generate").click()
        assert "(prompt)" in wait(page, "error")
        page.locator("#prompt textarea").fill("a person")

        page.locator("#mask label").nth(1).click()  # all of it
        for file in desk.outputs.glob("demo/*.png"):
            file.unlink()
        page.locator("#picture input[type=file]").set_input_files(picture)
        end = time.monotonic() + 60
        while not (kept := [*desk.outputs.glob("demo/*.png")]) and time.monotonic() < end:
            page.wait_for_timeout(30)
        assert [file.read_bytes() for file in kept] == [picture.read_bytes()]
    names = zipfile.ZipFile(tmp_path / "runs.zip").namelist()
    assert {"full/view.png", "full/manifest.json", "no_dam/image.png"} <= set(names)
    plan = json.loads(zipfile.ZipFile(tmp_path / "runs.zip").read("full/plan.json"))
    assert plan["boxes"] == [[0, 32, 48, 48]] and plan["related"][0][1] == 0
    assert not wrong, wrong


def test_its_picture_for_the_documentation(served: str, tmp_path: Path) -> None:
    with browser() as started:
        page = started.new_context(viewport={"width": 1200, "height": 1000}).new_page()
        page.goto(served)
        shot(page, tmp_path / "page.png")
        assert page.locator("#made img").count() >= 4
    assert Image.open(tmp_path / "page.png").width == 640
