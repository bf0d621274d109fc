"""A benchmark that is killed, cut into shards or robbed of a file ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from PIL import Image

from experiments.benchmark import store as benchmark_store
from experiments.benchmark import table as benchmark_table
from experiments.benchmark import work as benchmark_work
from experiments.benchmark.benchmark import Benchmark
from experiments.benchmark.rows import compose_row, parse_rows
from experiments.benchmark.store import Store, request_digest
from experiments.benchmark.work import Work, first_of_each
from experiments.core.study import StudyContext, run_job
from sow.config.compose import CONF, Config, Paths, compose
from sow.config.words import read
from sow.data import Group
from sow.data.people import PeopleBenchmark
from sow.errors import UserError
from sow.report.tables import from_folder
from sow.runs.records import RunFolder
from sow.types import Request, VisualCondition

TABLES = sorted(p.stem for p in (CONF / "experiment").glob("table*.yaml"))
WORDS = (
    "experiment=debug",
    "study=benchmark",
    "cycle.cycles=2",
    "batch_size=2",
    "+study.rows.full={overrides:[]}",
    "+study.rows.no_dam={overrides:['+ablation=no_dam'],paper:{open_gates:0.5}}",
    "+study.rows.told={overrides:null,paper:{open_gates:0.25}}",
    "study.reference=full",
    "study.columns=[{metric:open_gates,label:Gates,better:none,format:number}]",
)
NOT_COMPARED = {"seconds.parquet", "manifest.json"}


def made_groups() -> list[Group]:
    """Three normal groups and two style groups of small coloured squares."""
    out = []
    for i, setting in enumerate(["normal", "normal", "normal", "style", "style"]):
        condition = VisualCondition(
            Image.new("RGB", (64, 64), (40 * i, 200 - 30 * i, 90)), name=f"square {i}"
        )
        request = Request((condition,), f"a person number {i}", setting, seed=i, id=f"{setting}-{i}")
        out.append(Group(request.id, setting, "validation", request))
    return out


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Small data; a row composed once, for this process and every forked one; code that is read quickly."""
    patch.setattr(PeopleBenchmark, "groups", lambda self, split: made_groups())
    patch.setattr(benchmark_work, "compose_row", composed_row)
    patch.setattr(benchmark_store, "code_files", lambda: {"errors": CONF.parent / "sow/errors.py"})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


@cache
def composed(*words: str) -> Config:
    return compose(list(words))


rows_composed: dict[tuple[Any, ...], Config] = {}


def composed_row(config: Config, row: Any, task: str) -> Config:
    key = (config.overrides, row.name, task)
    if key not in rows_composed:
        rows_composed[key] = compose_row(config, row, task)
    return rows_composed[key]


def config_of(outputs: Path, *words: str) -> Config:
    return replace(composed(*WORDS, *words), paths=Paths(outputs))


def context_of(outputs: Path, *words: str, name: str = "run") -> StudyContext:
    return StudyContext(config_of(outputs, *words), RunFolder(outputs / name))


def run(outputs: Path, *words: str, name: str = "run") -> Path:
    """Run the benchmark to its end; its run folder."""
    context = context_of(outputs, *words, name=name)
    context.config.study.run(context)
    return context.folder.path


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file that two runs must share."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED
    }


def store_contents(outputs: Path) -> dict[str, bytes]:
    found = contents(outputs / ".batches")
    return {name: data for name, data in found.items() if not name.endswith("seconds.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The outputs of a run that nothing disturbed."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        run(outputs)
    yield outputs


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


def test_each_setting_has_its_own_task(undisturbed: Path, quick: None) -> None:
    batches = Work(composed(*WORDS).study, context_of(undisturbed)).batches
    assert {(g.setting, b.config.task.name) for b in batches for g in b.groups} == {
        ("normal", "normal"),
        ("style", "style"),
    }
    assert [len(b.groups) for b in batches] == [2, 2, 1, 1, 2, 2]
    assert [b.row.name for b in batches] == ["full", "no_dam"] * 3


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


def test_the_code_that_counts_makes_or_measures_images() -> None:
    names = set(benchmark_store.code_files())
    assert {"sow/method/algorithm.py", "sow/metrics/people.py", "sow/planner/offline.py"} <= names
    assert not {"sow/runs/tracking.py", "sow/report/tables.py", "experiments/benchmark/benchmark.py"} & names
    assert not [name for name in names if name.startswith("sow/people/controlnet")]
    assert compose(["method=controlnet_canny"]).method.files()[0].endswith("sow/people/controlnet")
    assert compose(["method=controlnet_canny", "method.path=nobody/has-this-net"]).method.files() == []


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
    assert request_digest(group) == request_digest(same) != request_digest(other)


def test_limits_take_the_settings_in_turn() -> None:
    groups = made_groups()
    assert [g.id for g in first_of_each(groups, 3)] == ["normal-0", "normal-1", "style-3"]
    assert first_of_each(groups, None) == groups
    assert len(first_of_each(groups, 99)) == 5


LIMITED = ("study.limit=4", "+study.rows.few={overrides:['gate.tau=0.5'],limit:2}", "study.only=[full,few]")


def test_a_row_may_have_the_first_groups_of_each_setting(
    undisturbed: Path, tmp_path: Path, quick: None
) -> None:
    """n stands in the table, and differences are of the groups that both rows have."""
    folder = run(tmp_path, *LIMITED)
    records = pandas.read_parquet(folder / "records.parquet")
    groups = {row: part["group"].tolist() for row, part in records.groupby("row")}
    assert groups == {
        "full": ["normal-0", "normal-1", "style-3", "style-4"],
        "few": ["normal-0", "style-3"],
    }
    rows = {r["name"]: r for r in json.loads((folder / "rows.json").read_text())}
    assert (rows["full"]["limit"], rows["few"]["limit"]) == (None, 2)
    heads, *lines = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in (folder / "table.md").read_text().splitlines()
        if line.startswith("|")
    ]
    counted = heads.index("n")
    assert {line[0]: line[counted] for line in lines[1:]} == {"full": "4", "few": "2"}
    line = from_folder(folder).lines[1]
    assert line.cells[0].against is not None and line.cells[0].against.groups == 2


def test_a_limited_row_has_whole_settings_and_shards(tmp_path: Path, quick: None) -> None:
    def made(*words: str) -> list[tuple[str, list[str], int]]:
        context = context_of(tmp_path, *words)
        return [(b.row.name, b.names, b.number) for b in Work(context.config.study, context).batches]

    batches = made(*LIMITED)
    assert batches == [
        ("full", ["normal-0-0", "normal-1-0"], 0),
        ("few", ["normal-0-0"], 0),
        ("full", ["style-3-0", "style-4-0"], 1),
        ("few", ["style-3-0"], 1),
    ]
    # From a limit that is no limit on, the row has what the others have.
    plain = made(*(w.replace("limit:2", "limit:99") for w in LIMITED))
    assert [b[1] for b in plain if b[0] == "few"] == [b[1] for b in plain if b[0] == "full"]
    with pytest.raises(UserError, match=r"study.rows.few.limit=3 .*2 settings.*multiple of 2"):
        made(*(w.replace("limit:2", "limit:3") for w in LIMITED))


def test_training_is_timed_apart() -> None:
    """What a training took when it was done, and the generation without it, whether it was done now or earlier."""
    samples = [SimpleNamespace(seconds={"train": 30.0, "plan": 0.5, "sample": 2.0, "decode": 1.0})] * 2
    found = benchmark_work.training_apart(samples)  # type: ignore[arg-type]
    assert found == {"train": 60.0, "without_training": 6.0}
    assert benchmark_work.training_apart([SimpleNamespace(seconds={"sample": 2.0})]) == {}  # type: ignore[list-item]
    times = {"images": 2, "generate": 67.0, "phases": {"sample": 2.0}, **found}
    row = benchmark_table._seconds("a", ["x-0", "y-0"], times)
    assert (row["seconds"], row["train_seconds"]) == (3.0, 30.0)
    plain = benchmark_table._seconds("a", ["x-0", "y-0"], {"images": 2, "generate": 5.0})
    assert (plain["seconds"], plain["train_seconds"]) == (2.5, None)
    lost = benchmark_table._seconds("a", ["x-0"], {})
    assert (lost["seconds"], lost["train_seconds"]) == (None, None)


def test_several_images_a_group_have_several_seeds(tmp_path: Path, quick: None) -> None:
    words = ("study.seeds=2", "study.limit=1", "study.only=[full]")
    records = pandas.read_parquet(run(tmp_path, *words) / "records.parquet")
    assert records["seed"].tolist() == [0, 1]
    assert records["sha256"].nunique() == 2


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


@pytest.mark.parametrize("table", TABLES)
def test_a_table_changes_the_study_alone(table: str) -> None:
    config, plain = composed("model=tiny", f"experiment={table}"), composed("model=tiny")
    assert {k for k, v in config.resolved.items() if v != plain.resolved[k]} - {"cache"} == {"study"}
    study = config.study
    assert isinstance(study, Benchmark) and study.name == table and study.reference in study.rows
    for row in study.parsed:
        assert len(row.marks) == len(study.marks)
        assert all(0 <= row.paper[m] <= 1 for m in ("failure", "face_detected") if m in row.paper)
    parent = {"table5": 2, "table6": 2, "table7": 2}.get(table, 1 if table.startswith("table1_") else None)
    if parent is not None:
        other = composed("model=tiny", f"experiment=table{parent}").study.parsed
        assert [r.overrides for r in study.parsed] == [r.overrides for r in other]
        assert [r.paper for r in study.parsed] != [r.paper for r in other]


@pytest.mark.parametrize("table", [t for t in TABLES if t in ("table1", "table2", "table3", "table4")])
def test_every_row_of_a_table_composes_and_differs(table: str) -> None:
    def kept(config: Config) -> dict[str, Any]:
        return {k: v for k, v in config.resolved.items() if k not in ("study", "paths", "cache")}

    config = composed("model=tiny", f"experiment={table}")
    rows = [r for r in config.study.parsed if r.overrides is not None]
    seen = {r.name: kept(compose_row(config, r, "normal")) for r in rows}
    assert len(seen) >= 4
    assert all(a is b or a != b for a in seen.values() for b in seen.values())
    assert seen[config.study.reference] == kept(composed("model=tiny"))


def test_the_papers_extremes_stand_in_the_tables() -> None:
    """Read off the paper's sentences about its tables, not off the files."""
    two, three, four = (
        {r.name: r.paper for r in composed("model=tiny", f"experiment=table{k}").study.parsed}
        for k in (2, 3, 4)
    )
    assert two["full"] == three["full"] == {"id_distance": 0.8068, "failure": 0.05, "face_detected": 1.0}
    assert max(three, key=lambda n: three[n]["id_distance"]) == "no_p_plus"
    assert min(four, key=lambda n: four[n]["id_distance"]) == "c10_500_300"
    assert max(four, key=lambda n: four[n]["seconds"]) == "c20_700_500"
    six = {r.name: r for r in composed("model=tiny", "experiment=table6").study.parsed}
    assert "misprint" in str(six["none"].note) and "face_detected" not in six["none"].paper


def test_ablations_of_the_command_line_and_the_row_combine() -> None:
    words = read(["+ablation=no_pi", "seed=1", "+ablation=[no_dam,no_pi]"], [CONF])
    assert words == ["seed=1", "+ablation=[no_pi,no_dam]"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["study.split=train"], ["study.split=train", "validation, test, all"]),
        (["study.seeds=0"], ["seeds >= 1", "study.seeds"]),
        (["study.shard=8/8"], ["0 <= k < n", "8/8"]),
        (["study.only=[nobody]"], ["nobody is no row", "full"]),
        (["+study.rows={x y:{}}"], ["study.rows", "x y"]),
        (["+study.rows.z={label:Z,override:[]}"], ["study.rows.z.override", "overrides"]),
        (["+study.rows.z={paper:{failure:low}}"], ["study.rows.z.paper.failure", "low"]),
        (["+study.rows.z={limit:0}"], ["study.rows.z.limit=0", "null for all"]),
        (["+study.rows.z={limit:few}"], ["study.rows.z.limit", "few"]),
        (["study.level=2"], ["study.level", "2"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_a_bad_word_is_named(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as failure:
        compose([*WORDS, *words])
    assert "\n" not in str(failure.value)
    for part in parts:
        assert part in str(failure.value)


def test_a_bad_row_fails_before_anything_is_made(tmp_path: Path, quick: None) -> None:
    words = ["+study.rows.bad={overrides:['cycle.t1=9']}"]
    with pytest.raises(UserError, match=r"row bad: .*t1=9"):
        run(tmp_path, *words)
    with pytest.raises(UserError, match=r"no setting sad.*normal, style"):
        run(tmp_path, "study.settings=[sad]")
    assert not (tmp_path / ".batches").exists()


def test_without_rows_the_configuration_is_the_row() -> None:
    assert [r.overrides for r in parse_rows({})] == [()]


def test_a_complete_run_is_not_repeated(tmp_path: Path, quick: None) -> None:
    config = config_of(tmp_path, "study.limit=1")
    for name, ran in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        assert run_job(config, tmp_path / name) is ran
    assert Store(tmp_path / ".batches").seconds("nothing") == {}
