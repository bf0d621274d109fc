"""The store: values found again as they were, bounded, and never trusted when a bit of them has changed."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sow.planner.store import PlanStore
from sow.store import store as module
from sow.store.fingerprint import fingerprint
from sow.store.store import ABANDONED, LOCK, Store
from sow.types import Box

KIB = 1 << 10


def tensor(i: int) -> tuple[torch.Tensor, ...]:
    """4 KiB; a file of it takes a little more."""
    return (torch.full((KIB,), float(i)),)


def key(i: int) -> str:
    return fingerprint(i)


def taken(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*.safetensors"))


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and fingerprint(a) == fingerprint(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


VALUES = [
    {"a": [1, 2.5, True, None, "é\n"], "b": {}},
    [],
    0.1,
    "text",
    (1, (2, [3, (4,)])),
    [float("inf"), float("nan"), -0.0, 1e-320],
    {"x": torch.arange(6).reshape(2, 3).T, "y": (torch.ones(2, dtype=torch.float16), "words")},
    (torch.zeros(0), torch.tensor(3.5, dtype=torch.float64), torch.tensor([True, False])),
    [torch.full((3,), float("nan")), {"deep": [torch.ones(1, dtype=torch.bfloat16)]}],
    {"weights": torch.randn(64, 64), "facts": {"seconds": 1.5, "loss": [0.1]}},
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_as_it_was(tmp_path: Path, value: Any) -> None:
    store = Store(tmp_path)
    assert store.get(key(1)) is None and key(1) not in store
    store.put(key(1), value)
    assert same(Store(tmp_path).get(key(1)), value) and key(1) in store
    assert not list(tmp_path.rglob(".*"))
    store.forget(key(1))
    assert store.get(key(1)) is None and not list(tmp_path.rglob("*.*"))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit at the start": lambda d: flipped(d, 0),
    "a bit in the first tenth": lambda d: flipped(d, len(d) // 10),
    "a bit in the middle": lambda d: flipped(d, len(d) // 2),
    "the last bit but some": lambda d: flipped(d, len(d) - 6),
    "cut in half": lambda d: d[: len(d) // 2],
    "cut by a byte": lambda d: d[:-2],
    "empty": lambda d: b"",
    "zeros": lambda d: bytes(len(d)),
    "longer": lambda d: d + b"0",
    "another thing": lambda d: b'{"value": 1}',
    "a list": lambda d: b"[1, 2]",
    "null": lambda d: b"null",
    "half a character": lambda d: b"\xff" + d,
    "deep": lambda d: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("value", [{"boxes": [[1, 2, 3, 4]], "words": "a person"}, tensor(7)])
def test_damage_is_made_again_with_one_line(
    tmp_path: Path, value: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    Store(tmp_path).put(key(1), value)
    (file,) = tmp_path.rglob("*.*")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = Store(tmp_path).value(key(1), lambda: value)
    assert same(found, value)
    (record,) = caplog.records
    assert str(file) in record.getMessage() and "\n" not in record.getMessage()
    assert same(Store(tmp_path).get(key(1)), value)


@pytest.mark.parametrize("values", [({"words": "a"}, {"words": "b"}), (tensor(7), tensor(8))])
def test_a_file_under_another_name_is_no_value(
    tmp_path: Path, values: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    for i, value in enumerate(values):
        store.put(key(i), value)
    one, other = (next(tmp_path.rglob(f"{key(i)}.*")) for i in range(2))
    other.write_bytes(one.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert store.get(key(1)) is None and same(store.get(key(0)), values[0])
    (record,) = caplog.records
    assert "written under another name" in record.getMessage()


@pytest.mark.parametrize("value", [{"boxes": [[1, 2, 3, 4]], "words": "a person"}, tensor(7)[0][:8]])
def test_no_bit_can_change_unseen(tmp_path: Path, value: Any) -> None:
    """Any bit of the file: the value is the one that was kept, or there is none."""
    store = Store(tmp_path)
    store.put(key(1), value)
    (file,) = tmp_path.rglob("*.*")
    data = file.read_bytes()
    logging.disable(logging.WARNING)
    try:
        for bit in range(0, 8 * len(data), 7):  # each byte, its bits in turn
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            found = store.get(key(1))
            assert found is None or same(found, value), bit
    finally:
        logging.disable(logging.NOTSET)


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    store = Store(tmp_path, 100 * KIB)
    for i in range(100):
        store.put(key(i), tensor(i))
        assert taken(tmp_path) <= 100 * KIB
        if i >= 10:
            assert store.get(key(3)) is not None  # in use all the time
        ages = sorted(tmp_path.rglob("*.safetensors"), key=lambda f: f.stat().st_mtime_ns)
        for age, file in enumerate(ages):  # clocks of file systems are coarse
            os.utime(file, ns=(age * 10**9, age * 10**9))
    kept = [i for i in range(100) if store.get(key(i)) is not None]
    assert kept[0] == 3 and kept[1:] == list(range(kept[1], 100)) and 10 <= len(kept) <= 25


def test_no_bound_removes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i in range(30):
        store.put(key(i), tensor(i))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 30 and not (tmp_path / LOCK).exists()


def test_a_folder_that_grew_without_a_bound_shrinks_at_the_next_write(tmp_path: Path) -> None:
    for i in range(30):
        Store(tmp_path).put(key(i), tensor(i))
    Store(tmp_path, 20 * KIB).put(key(30), tensor(30))
    assert 0 < taken(tmp_path) <= 20 * KIB
    assert Store(tmp_path).get(key(30)) is not None


def test_a_value_larger_than_the_limit_empties_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 20 * KIB)
    store.put(key(0), tensor(0))
    store.put(key(1), (torch.zeros(100 * KIB),))
    assert store.get(key(0)) is not None and store.get(key(1)) is None


def test_files_being_written_stay_and_those_of_killed_processes_go(tmp_path: Path) -> None:
    written, left = (tmp_path / key(i)[:2] / f".{key(i)}.json.123-456.part" for i in (901, 902))
    for part in (written, left):
        part.parent.mkdir()
        part.write_bytes(bytes(50 * KIB))
    old = time.time() - 2 * ABANDONED
    os.utime(left, (old, old))
    store = Store(tmp_path, 20 * KIB)
    for i in range(20):
        store.put(key(i), tensor(i))
    assert written.exists() and not left.exists() and taken(tmp_path) <= 20 * KIB


# A user's own files in the folder of a store: a row is the place of one and its first bytes.

HASH = "ab" * 32
FOREIGN: dict[str, tuple[str, bytes]] = {
    "a text": ("ab/notes.txt", b"notes"),
    "hidden": ("ab/.hidden", b"kept"),
    "an abandoned part of another program": ("ab/.download.json.77-88.part", b"half"),
    "its own place and kind": ("ab/data.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
    "named by a hash, in another folder": (f"cd/{HASH}.json", b'{\n "sha256": "'),
    "named by a hash, of a git store": (f"ab/{HASH[2:]}", b"blob"),
    "named by a hash, another program's JSON": (f"ab/{HASH}.json", b'{"url": "x", "sha256": "y"}'),
    "named by a hash, another program's weights": (
        f"ab/{HASH}.safetensors",
        b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__":{"format":"pt"}}'.ljust(64),
    ),
    "named by a hash, cut": (f"ab/{HASH}.safetensors", b"\xff"),
    "named by a hash, empty": (f"ab/{HASH}.json", b""),
    "capital letters": (f"AB/{HASH.upper()}.json", b'{\n "sha256": "'),
    "beside the folders": ("thesis.json", b"{}"),
    "a lock": (".lock", b"12345"),
    "deeper": (f"ab/cd/{HASH}.json", b'{\n "sha256": "'),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_a_store_did_not_write_stays_to_the_byte(tmp_path: Path, what: str) -> None:
    name, start = FOREIGN[what]
    file, data = tmp_path / name, start + bytes(30 * KIB)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    old = time.time() - 10 * ABANDONED
    os.utime(file, (old, old))
    store = Store(tmp_path, 60 * KIB)
    for i in range(40):
        store.put(key(i), tensor(i))
        store.put(key(100 + i), {"plain": "x" * KIB})
    assert file.read_bytes() == data
    assert store.get(key(139)) is not None and taken(tmp_path) - len(data) <= 60 * KIB


def test_links_in_the_folder_of_a_store_and_what_they_lead_to_stay(tmp_path: Path) -> None:
    elsewhere = Store(tmp_path / "mine")
    elsewhere.put(key(1), tensor(1))
    (file,) = (tmp_path / "mine").rglob("*.safetensors")
    place = tmp_path / "store"
    (place / file.parent.name).mkdir(parents=True)
    (place / file.parent.name / file.name).symlink_to(file)
    store = Store(place, 20 * KIB)
    for i in range(10, 40):
        store.put(key(i), tensor(i))
    assert (place / file.parent.name / file.name).is_symlink() and same(elsewhere.get(key(1)), tensor(1))


def test_memory_is_bounded_and_its_tensors_are_watched(tmp_path: Path) -> None:
    store = Store(None, memory=10 * KIB)
    store.put(key(0), tensor(0))
    store.put(key(1), tensor(1))
    store.put(key(2), tensor(2))
    assert store.size == 8 * KIB and store.get(key(0)) is None
    found = store.get(key(1))
    assert found is not None
    found[0].zero_()
    assert store.get(key(1)) is None and store.size == 4 * KIB
    store.clear()
    assert store.get(key(2)) is None and store.size == 0


def test_each_key_is_made_once(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), []

    def make(places: list[int]) -> list[int]:
        asked.append(places)
        return [10 * p for p in places]

    keys = [key(0), key(1), key(0), key(2)]
    assert store.values(keys, make) == [0, 10, 0, 30]
    assert store.values([*keys, key(3)], make) == [0, 10, 0, 30, 40]
    assert store.values(keys[:2], make) == [0, 10] and asked == [[0, 1, 3], [4]]


# Folders that cannot be used.


def a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write_text("in the way")


def a_dangling_link(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.symlink_to(place / "itself")


def failing(number: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def prepare(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "replace", fails)

    prepare.__name__ = os.strerror(number)
    return prepare


def full_for_safetensors(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def fails(*_: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # its own kind of error

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))


def a_subfolder_is_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir()
    for i in range(3):
        (place / key(i)[:2]).write_text("in the way")


@pytest.mark.parametrize(
    "broken",
    [
        a_file,
        a_dangling_link,
        a_subfolder_is_a_file,
        full_for_safetensors,
        *map(failing, (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT)),
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("value", [{"a": 1}, tensor(1)], ids=["plain", "tensors"])
def test_a_broken_folder_ends_no_run_and_is_named_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: Callable[[Path, pytest.MonkeyPatch], None],
    value: Any,
) -> None:
    broken(tmp_path / "store", monkeypatch)
    store = Store(tmp_path / "store", 100 * KIB)
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            assert same(store.value(key(i), lambda: value), value)
    written = [r.getMessage() for r in caplog.records if "nothing can be kept" in r.getMessage()]
    assert len(written) == 1 and str(tmp_path / "store") in written[0] and "\n" not in written[0]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "broken",
    [a_file, a_dangling_link, a_subfolder_is_a_file, *map(failing, (errno.ENOSPC, errno.EROFS))],
    ids=lambda f: f.__name__,
)
def test_a_plan_is_had_without_a_place_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    broken(tmp_path / "plans", monkeypatch)
    store = PlanStore(tmp_path / "plans")
    for _ in range(2):
        assert store.get_or_ask(key(1), lambda: {"boxes": [1]}, refresh=False, wait=1) == {"boxes": [1]}
    assert 0 <= store.reserve("model", 1.0) <= 1


def test_a_file_removed_by_another_process_is_a_miss_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put(key(1), tensor(1))
    (file,) = tmp_path.rglob("*.safetensors")
    with caplog.at_level(logging.WARNING):
        file.unlink()
        assert store.get(key(1)) is None and not caplog.records


def _work(place: Path, first: int, failures: multiprocessing.Queue[str]) -> None:  # type: ignore[type-arg]
    torch.set_num_threads(1)
    told = logging.getLogger(module.__name__)
    told.addFilter(lambda r: failures.put(r.getMessage()))  # type: ignore[func-returns-value]
    store = Store(place, 60 * KIB)
    for turn in range(60):
        i = (first + turn) % 40
        found = store.get(key(i))
        if found is not None and not torch.equal(found[0], tensor(i)[0]):
            failures.put(f"{i} holds something else")
        if found is None:
            store.put(key(i), tensor(i))


def test_processes_that_write_read_and_clear_up_at_once_never_see_half_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, 13 * n, failures)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    # a queue's feeder thread may lag behind empty(): whatever was said is read, and shown
    said = []
    with suppress(queue.Empty):
        while True:
            said.append(failures.get(timeout=0.2))
    assert [w.exitcode for w in workers] == [0, 0, 0] and said == []
    assert taken(tmp_path) <= 60 * KIB * (1 + 3 * 0.05) and not list(tmp_path.rglob("*.part"))


def test_files_of_earlier_versions_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / key(1)[:2] / f"{key(1)}.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"stored": 5.0, "value": {"prompt": "c'"}}))
    assert Store(tmp_path, undigested=True).entry(key(1)) == ({"prompt": "c'"}, 5.0)
    assert Store(tmp_path).get(key(1)) is None


# Fingerprints.

DISTINCT = [
    1, 1.0, "1", True, None, b"1", [1, 2], [[1, 2]], [[1], 2], ["ab", "c"], ["a", "bc"], {"a": 1}, {"a": 2},
    {"b": 1}, [], {}, "", b"", Path("1"), {1, 2}, {1, 3}, float("nan"), -0.0, 0.0, 2**70,
    torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(1, 2), torch.tensor([0.0, -0.0]),
    np.zeros(2), np.zeros(2, np.float32), Box(1, 2, 3, 4), Box(1, 2, 4, 3),
    Image.new("L", (2, 3)), Image.new("L", (3, 2)), Image.new("P", (2, 3)), Image.new("L", (2, 3), 1),
]  # fmt: skip


def test_fingerprints_tell_contents_apart() -> None:
    assert len({fingerprint(v) for v in DISTINCT}) == len(DISTINCT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {1, 2, 3}),
        (torch.arange(6).reshape(2, 3).T.contiguous(), torch.arange(6).reshape(2, 3).T),
        (Box(1, 2, 3, 4), Box(1, 2, 3, 4)),
        (np.float64(0.5), 0.5),
    ],
)
def test_equal_contents_have_one_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("value", [object(), len, [print], {"a": object()}, Box])
def test_what_has_no_content_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no content"):
        fingerprint(value)
