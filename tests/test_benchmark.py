"""A benchmark that is killed, cut into shards or robbed of a file ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image
from small_benchmark import (
    WORDS,
    config_of,
    contents,
    context_of,
    made_groups,
    run,
    store_contents,
)

from experiments.benchmark.store import Store, batch_key
from experiments.benchmark.work import Work
from experiments.core.study import run_job
from sow.errors import UserError
from sow.types import Request, VisualCondition

pytest_plugins = ["small_benchmark"]  # fixtures


def test_a_run_folder_holds_what_it_says(undisturbed: Path) -> None:
    folder = undisturbed / "run"
    records = pandas.read_parquet(folder / "records.parquet")
    assert len(records) == 2 * 5
    assert list(dict.fromkeys(records["row"])) == ["full", "no_dam"]
    assert records["group"].tolist()[:5] == [g.id for g in made_groups()]
    assert records.set_index("row")["open_gates"].notna()["full"].all()
    for row, group, seed in zip(records["row"], records["group"], records["seed"], strict=True):
        with Image.open(folder / f"images/{row}/{group}-{seed}.png") as image:
            assert image.size == (128, 128)
    rows = json.loads((folder / "rows.json").read_text())
    assert [r["name"] for r in rows] == ["full", "no_dam", "told"]
    assert rows[1]["overrides"] == ["+ablation=no_dam"] and rows[2]["overrides"] is None
    assert (folder / "conditions/style-4.png").is_file()
    table = (folder / "table.md").read_text()
    assert "| told | - | - | 0.250 |" in table or "| told | - | 0.250 |" in table
    assert "5 groups (3 normal, 2 style)" in table and "Tuned on these groups" in table
    images = [(folder / f"images/{row}/normal-0-0.png").read_bytes() for row in ("full", "no_dam")]
    assert images[0] != images[1]


def child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying(outputs: Path, write: int, late: bool) -> None:
    """Run until the `write`-th file is about to be renamed, or was; then SIGKILL."""
    calls, rename = [0], os.replace

    def replace(source: Any, target: Any) -> None:
        calls[0] += 1
        if calls[0] == write and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if calls[0] == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    run(outputs, name="killed")


def test_killed_ten_times_it_ends_with_the_same_bytes(undisturbed: Path, tmp_path: Path, quick: None) -> None:
    """Eight times at a random write, before or after it shows, twice at a random moment."""
    rng = random.Random(0)
    deaths = 0
    for attempt in range(8):
        write, late = rng.randint(1, 6), rng.random() < 0.5
        deaths += ended(child(lambda w=write, late=late: dying(tmp_path, w, late))) == -signal.SIGKILL
        if attempt % 3 == 2:
            pid = child(lambda: (run(tmp_path, name="killed"), None)[1])
            time.sleep(rng.uniform(0.0, 0.4))
            os.kill(pid, signal.SIGKILL)
            deaths += ended(pid) == -signal.SIGKILL
    assert deaths >= 8
    run(tmp_path)
    assert contents(tmp_path / "run") == contents(undisturbed / "run")
    assert store_contents(tmp_path) == store_contents(undisturbed)


def test_two_shards_at_once_are_one_run(undisturbed: Path, tmp_path: Path, quick: None) -> None:
    run_one = [child(lambda k=k: (run(tmp_path, f"study.shard={k}/2"), None)[1]) for k in range(2)]
    assert [ended(pid) for pid in run_one] == [0, 0]
    assert store_contents(tmp_path) == store_contents(undisturbed)
    run(tmp_path)
    assert contents(tmp_path / "run") == contents(undisturbed / "run")


def test_a_shard_alone_makes_no_table(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "study.shard=1/3")
    assert not (folder / "table.md").exists()
    assert "2 batches" not in capsys.readouterr().out
    assert len(list((tmp_path / ".batches").glob("*/*/records.jsonl"))) == 2


def cut(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-40])


def drop_a_line(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def change_a_number(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7', 1))


def cut_an_image(folder: Path) -> None:
    file = sorted(folder.glob("*.png"))[0]
    file.write_bytes(file.read_bytes()[:-10])


def lose_an_image(folder: Path) -> None:
    sorted(folder.glob("*.png"))[0].unlink()


@pytest.mark.parametrize("harm", [cut, drop_a_line, change_a_number, cut_an_image, lose_an_image])
def test_only_what_is_lost_is_done_again(
    harm: Callable[[Path], None], undisturbed: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, store = contents(undisturbed / "run"), store_contents(undisturbed)
    # A run folder's picture may be the store's own file under another name.
    victim = sorted((undisturbed / ".batches").glob("*/*"))[2]
    harm(victim)
    made: list[str] = []
    one = Work._one

    def spied(self: Work, batch: Any) -> None:
        made.append(batch.key)
        one(self, batch)

    monkeypatch.setattr(Work, "_one", spied)
    run(undisturbed)
    assert made == [victim.name]
    assert contents(undisturbed / "run") == before and store_contents(undisturbed) == store
    run(undisturbed)
    assert made == [victim.name]


@pytest.mark.parametrize("broken", ["plan", "generate", "measure"])
def test_a_group_that_fails_is_marked_and_tried_again(
    broken: str, undisturbed: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step fails for one group: the others are made, the table says n,
    the same command makes the rest."""
    failing = {"style-4"}
    make = Work._make

    def unlucky(self: Work, batch: Any, sampler: Any, loaded: float) -> None:
        def fail(given: Any, *rest: Any, **named: Any) -> Any:
            requests = [getattr(g, "request", g) for g in given]
            if failing & {r.id for r in requests}:
                raise (UserError if broken == "plan" else ValueError)("out\nof luck")
            return original(given, *rest, **named)

        owner = self.context.metrics if broken == "measure" else sampler
        original = getattr(owner, broken)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(owner), broken, lambda self, *words, **named: fail(*words, **named))
            make(self, batch, sampler, loaded)

    monkeypatch.setattr(Work, "_make", unlucky)
    with pytest.raises(
        UserError, match=r"2 images could not be made, first style-4-0 of row full: .*out of luck"
    ):
        run(tmp_path)
    errors = json.loads((tmp_path / "run/errors.json").read_text())
    assert [(e["row"], e["group"], e["seed"]) for e in errors] == [
        ("full", "style-4", 0),
        ("no_dam", "style-4", 0),
    ]
    assert (
        errors[0]["error"].endswith("out of luck")
        and len(pandas.read_parquet(tmp_path / "run/records.parquet")) == 8
    )
    assert "2 images could not be made" in (tmp_path / "run/table.md").read_text()
    failing.clear()
    made: list[list[str]] = []
    monkeypatch.setattr(
        Work, "_make", lambda self, batch, *rest: (made.append(batch.names), make(self, batch, *rest))
    )
    run(tmp_path)
    assert made == [["style-4-0"]] * 2
    again = pandas.read_parquet(tmp_path / "run/records.parquet")
    assert (
        again["group"].tolist() == pandas.read_parquet(undisturbed / "run/records.parquet")["group"].tolist()
    )


def test_a_benchmark_in_which_nothing_works_stops_early(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def broken(self: Work, batch: Any, *rest: Any) -> None:
        tried.append(batch.key)
        raise UserError("no API key")

    monkeypatch.setattr(Work, "_make", broken)
    with pytest.raises(UserError, match="^no API key$"):
        run(tmp_path)
    assert len(tried) < 8 and not (tmp_path / "run/table.md").exists()


def test_lines_are_read_by_pandas(undisturbed: Path) -> None:
    file = sorted((undisturbed / ".batches").glob("*/*/records.jsonl"))[0]
    assert {"group", "seed", "checksum", "open_gates"} <= set(pandas.read_json(file, lines=True).columns)


def test_a_row_alone_has_the_bytes_it_has_among_others(
    undisturbed: Path, tmp_path: Path, quick: None
) -> None:
    """What rows share, plans and inversions, changes no picture."""
    folder = run(tmp_path, "study.only=[no_dam]", "study.reference=null")
    mine, theirs = contents(folder / "images"), contents(undisturbed / "run/images")
    assert mine and all(theirs[name] == data for name, data in mine.items())


def test_a_batch_depends_on_its_groups_method_and_weights(tmp_path: Path, quick: None) -> None:
    def keys(*words: str) -> list[str]:
        context = context_of(tmp_path, "study.only=[full]", "study.settings=[normal]", *words)
        return [b.key for b in Work(context.config.study, context).batches]

    base = keys()
    assert len(base) == 2
    assert keys("study.title=Other", "study.resamples=500", "study.limit=2") == base[:1]
    assert not set(keys("gate.tau=0.5")) & set(base)
    assert not set(keys("seed=1")) & set(base)
    assert not set(keys("model.seed=1")) & set(base)


def test_a_request_is_its_pixels_words_and_seed() -> None:
    group = made_groups()[0].request
    same = made_groups()[0].request
    other = Request(
        (VisualCondition(Image.new("RGB", (64, 64), (1, 200, 90))),), group.prompt, "normal", 0, group.id
    )
    keys = [batch_key("method", [r]) for r in (group, same, other, replace(group, seed=1))]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_from_the_command_line_with_and_without_a_sweep(
    quick: None, command_line: Callable[..., Any]
) -> None:
    words = [w for w in WORDS if "told" not in w] + ["study.limit=1"]
    first = command_line(*words)
    assert first.status == 0 and "Benchmark" in first.out, first.err
    again = command_line("-m", *words)
    assert again.status == 0 and "done before" in again.out, again.err
    forced = command_line("-m", *words, "force=true", "study.shard=0/2,1/2")
    assert forced.status == 0 and forced.out.count("table.md") == 2, forced.err
    assert "images," not in forced.out


def test_a_complete_run_is_not_repeated(tmp_path: Path, quick: None) -> None:
    config = config_of(tmp_path, "study.limit=1")
    for name, ran in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        assert (run_job(config, tmp_path / name) == tmp_path / name) is ran
    assert Store(tmp_path / ".batches").seconds("nothing") == {}
