"""The folder of the cache: bounded, the unused go first, and several processes may write and clear up at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from sow import build, compose
from sow.errors import UserError
from sow.store.cache_folder import ABANDONED, LOCK, CacheFolder

KIB = 1 << 10


def value(i: int) -> tuple[torch.Tensor, ...]:
    """4 KiB; a file of it takes a little more."""
    return (torch.full((KIB,), float(i)),)


def name(i: int) -> str:
    return f"{i:040x}"[::-1]


def taken(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*.pt"))


def test_a_value_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 0)
    assert folder.read(name(1)) is None
    folder.write(name(1), ({"x": torch.arange(3)}, torch.ones(2, dtype=torch.float16)))
    named, ones = CacheFolder(tmp_path, 0).read(name(1))
    assert torch.equal(named["x"], torch.arange(3)) and ones.dtype == torch.float16


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 100 * KIB)
    for i in range(100):
        folder.write(name(i), value(i))
        assert taken(tmp_path) <= 100 * KIB
        if i >= 10:
            assert folder.read(name(3)) is not None  # in use all the time
        ages = sorted(tmp_path.rglob("*.pt"), key=lambda f: f.stat().st_mtime_ns)
        for age, file in enumerate(ages):  # clocks of file systems are coarse
            os.utime(file, ns=(age * 10**9, age * 10**9))
    kept = [i for i in range(100) if folder.read(name(i)) is not None]
    assert kept[0] == 3 and kept[1:] == list(range(kept[1], 100)) and 10 <= len(kept) <= 25


def test_no_bound_removes_nothing(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 0)
    for i in range(30):
        folder.write(name(i), value(i))
    assert len(list(tmp_path.rglob("*.pt"))) == 30 and not (tmp_path / LOCK).exists()


def test_a_folder_that_grew_without_a_bound_shrinks_at_the_next_write(tmp_path: Path) -> None:
    for i in range(30):
        CacheFolder(tmp_path, 0).write(name(i), value(i))
    CacheFolder(tmp_path, 20 * KIB).write(name(30), value(30))
    assert 0 < taken(tmp_path) <= 20 * KIB
    assert CacheFolder(tmp_path, 0).read(name(30)) is not None


def test_a_value_larger_than_the_limit_empties_nothing(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 20 * KIB)
    folder.write(name(0), value(0))
    folder.write(name(1), (torch.zeros(100 * KIB),))
    assert folder.read(name(0)) is not None and folder.read(name(1)) is None


def test_files_being_written_stay_and_those_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "00").mkdir()
    written, left = (tmp_path / "00" / f".{i}.pt.123-456.part" for i in (1, 2))
    for part in (written, left):
        part.write_bytes(bytes(50 * KIB))
    old = time.time() - 2 * ABANDONED
    os.utime(left, (old, old))
    folder = CacheFolder(tmp_path, 20 * KIB)
    for i in range(20):
        folder.write(name(i), value(i))
    assert written.exists() and not left.exists() and taken(tmp_path) <= 20 * KIB


def test_a_file_removed_by_another_process_is_a_miss_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CacheFolder(tmp_path, 0)
    folder.write(name(1), value(1))
    (file,) = tmp_path.rglob("*.pt")
    with caplog.at_level(logging.WARNING):
        file.unlink()
        assert folder.read(name(1)) is None and not caplog.records
        folder.write(name(1), value(1))
        file.write_bytes(b"damaged")
        assert folder.read(name(1)) is None and len(caplog.records) == 1


def _work(place: Path, first: int, failures: multiprocessing.Queue[str]) -> None:  # type: ignore[type-arg]
    torch.set_num_threads(1)
    logging.getLogger("sow.store.cache_folder").addFilter(lambda r: failures.put(r.getMessage()))  # type: ignore[func-returns-value]
    folder = CacheFolder(place, 60 * KIB)
    for turn in range(60):
        i = (first + turn) % 40
        found = folder.read(name(i))
        if found is not None and not torch.equal(found[0], value(i)[0]):
            failures.put(f"{i} holds something else")
        if found is None:
            folder.write(name(i), value(i))


def test_processes_that_write_read_and_clear_up_at_once_never_see_half_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, 13 * n, failures)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0, 0] and failures.empty()
    assert taken(tmp_path) <= 60 * KIB * (1 + 3 * 0.05) and not list(tmp_path.rglob("*.part"))


def test_the_bound_comes_from_the_configuration(tmp_path: Path) -> None:
    words = ["model=tiny", "metrics=none", "planner=fixed", f"cache.folder={tmp_path}"]
    assert compose(words).cache.folder_mb > 0  # bounded unless told otherwise
    folder = build(compose([*words, "cache.folder_mb=3"])).cache.results.folder
    assert folder == CacheFolder(tmp_path, 3 << 20)
    assert (
        build(compose([*words, "cache.folder_mb=3"])).cache.results.folder is folder
    )  # it knows what is there
    assert build(compose(words[:3])).cache.results.folder is None
    with pytest.raises(UserError, match="cache.folder_mb"):
        compose([*words, "cache.folder_mb=-1"])
