"""`--from image.png`: a picture says how it was made; a stranger's picture runs nothing."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sow.config.repeat import CHUNK, OWN, words_of
from sow.errors import UserError
from sow.runs.records import NOT_THE_RUN, RunFolder


def picture(place: Path, text: str | None) -> str:
    told = PngInfo()
    if text is not None:
        told.add_text(CHUNK, text)
    Image.new("RGB", (8, 8)).save(place / "image.png", pnginfo=told)
    return str(place / "image.png")


def with_words(place: Path, *words: str) -> str:
    return picture(place, json.dumps({"words": list(words), "key": "x"}))


def test_a_run_folders_image_holds_its_words_and_key(tmp_path: Path) -> None:
    words = ["prompt=a 'quoted' caf\u00e9, at night", "+ablation=no_dam", "seed=3"]
    path = RunFolder(tmp_path, {"words": words, "key": "0123"}).save_image("a.png", Image.new("RGB", (8, 8)))
    assert words_of(str(path)) == words
    with Image.open(path) as opened:
        assert json.loads(opened.text[CHUNK])["key"] == "0123"  # type: ignore[attr-defined]


def test_without_about_nothing_is_said(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).save_image("a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match=r"does not say how it was made.*--from"):
        words_of(str(path))


@pytest.mark.parametrize(
    "word",
    [
        "hydra.run.dir=/tmp/x",
        "+hydra.callbacks.x._target_=os.system",
        "hydra/launcher=joblib",
        "paths.outputs=/tmp/x",
        "tracker.project=x",
        "tracker=wandb",
        "planner.base_url=https://example.org",
        "++planner.api_key_env=HOME",
        "+x._target_=os.system",
        "prompt=${oc.env:HOME}",
        "--config-dir=/tmp/x",
        "-m",
        "cache.folder=/tmp/x",
        "~tracker",
        " planner.base_url=https://example.org",
        "planner.api_key_env =HOME",
        " hydra.run.dir=/tmp/x",
        "\thydra.job.env_set={PATH:/tmp}",
        "\u00a0paths.outputs=/tmp/x",
        "+ hydra.run.dir=/tmp/x",
        "gate@hydra.run=always",
        "prompt=@/etc/passwd",
        "guidance.negative_prompt=@/etc/passwd",
        "condition.image=@/etc/passwd",
        "planner.store=/tmp/x",
        "study.output=/tmp/x",
        "metrics.cache_dir=/tmp/x",
        "method.cache=/tmp/x",
        "prompt=a ***",
        "hydra",
    ],
)
def test_a_strangers_picture_runs_and_sends_nothing(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"an image may not.*--from"):
        words_of(with_words(tmp_path, "seed=3", word))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"words": 3}', '{"words": [3]}', "[" * 100_000, "nothing"])
def test_damaged_words_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="--from") as refused:
        words_of(picture(tmp_path, text))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["missing.png", "text.png", ""])
def test_what_is_no_picture_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("nothing")
    with pytest.raises(UserError, match=r"cannot read .*--from"):
        words_of(str(tmp_path / name))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMBS = {
    "text": chunk(b"zTXt", b"sow\0\0" + zlib.compress(b" " * 80_000_000)),
    "international text": chunk(b"iTXt", b"sow\0\1\0\0\0" + zlib.compress(b" " * 80_000_000)),
    "colour profile": chunk(b"iCCP", b"sow\0\0" + zlib.compress(b" " * 80_000_000)),
    "size": chunk(b"IHDR", struct.pack(">IIBBBBB", 300_000, 300_000, 8, 2, 0, 0, 0)),
    "no size": chunk(b"IHDR", b""),
    "many texts": chunk(b"zTXt", b"sow\0\0" + zlib.compress(b" " * 900_000)) * 80,
    "broken stream": chunk(b"zTXt", b"sow\0\0nothing"),
    "keyword alone": chunk(b"iTXt", b"sow"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_damaged_picture_is_one_line(tmp_path: Path, name: str) -> None:
    whole = Path(with_words(tmp_path, "seed=3")).read_bytes()
    start = whole.index(b"tEXt") - 4
    (tmp_path / "bomb.png").write_bytes(whole[:33] + BOMBS[name] + whole[start + 4 + 4 + 4 :])
    with pytest.raises(UserError, match="--from") as refused:
        words_of(str(tmp_path / "bomb.png"))
    assert "\n" not in str(refused.value)


def test_the_users_own_word_takes_the_place_of_a_pictures(tmp_path: Path) -> None:
    image = with_words(
        tmp_path, "seed=3", "planner=openai", "planner.base_url=https://example.org", "+ablation=no_pi"
    )
    own = ["planner=fixed", "planner.base_url=https://mine.example", "+ablation=no_ap"]
    assert words_of(image, own) == ["seed=3", "+ablation=no_pi"]


@pytest.mark.parametrize("own, fine", [((), False), (("planner=openai",), True), (("planner=fixed",), True)])
def test_a_pictures_planner_sends_nothing(
    tmp_path: Path, own: tuple[str, ...], fine: bool, command_line
) -> None:
    image = with_words(tmp_path, "experiment=debug", "planner=openai")
    shown = command_line(
        "--from", image, *own, "planner.model=x" if "planner=openai" in own else "seed=1", "--cfg", "job"
    )
    assert (shown.status == 0) == fine, shown.err
    assert fine or ("planner=openai yourself" in shown.err and len(shown.err.strip().splitlines()) == 1)


@pytest.mark.parametrize("word", ["task.name=${oc.env:HOME}", "prompt=\\${oc.env:HOME}"])
def test_a_pictures_words_are_no_words_of_the_command_line(tmp_path: Path, word: str, command_line) -> None:
    refused = command_line("--from", with_words(tmp_path, "experiment=debug", word))
    assert refused.status == 1 and len(refused.err.strip().splitlines()) == 1


def test_what_is_not_the_run_is_left_to_the_user() -> None:
    assert set(NOT_THE_RUN) <= set(OWN)


def test_the_command_repeats_a_picture(tmp_path: Path, command_line, run_folders) -> None:
    """With words as people type them; the picture is the same, and is known to have been made."""
    words = ["experiment=debug", "prompt=a person, at night: 'here' {now}", "cycle.cycles=1", "seed=41"]
    first = command_line(*words, "width=64", "height=64")
    assert first.status == 0, first.err
    (folder,) = run_folders()
    image = str(folder / "image.png")
    again = command_line("--from", image)
    assert again.status == 0 and "done before" in again.out, again.err
    forced = command_line("--from", image, "force=true")
    assert forced.status == 0, forced.err
    other = run_folders()[-1]
    assert other != folder and Image.open(other / "image.png").tobytes() == Image.open(image).tobytes()
    shown = command_line("--from", image, "--cfg", "job", "seed=42")
    assert "seed: 42" in shown.out.splitlines() and "at night: ''here'' {now}" in shown.out
    refused = command_line("--from", with_words(tmp_path, "hydra.run.dir=x"))
    assert refused.status == 1 and len(refused.err.strip().splitlines()) == 1
