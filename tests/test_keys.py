"""Keys: what a run reads and the code that it can reach are in its key, and nothing else is."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import without_weights
from PIL import Image

from sow.config.compose import Config, compose
from sow.errors import UserError
from sow.planner import stages
from sow.runs import records
from sow.store import code, file_hashes, fingerprint, inputs
from sow.store.code import closure, code_digests, fingerprint_code

ROOT = code.ROOT


def config(outputs: Path, *words: str) -> Config:
    return compose(["experiment=debug", f"paths.outputs={outputs}", *words])


def test_the_key_is_what_changes_a_result(tmp_path: Path) -> None:
    base = records.run_key(config(tmp_path))
    assert base == records.run_key(config(tmp_path))
    assert base == records.run_key(config(tmp_path / "elsewhere", "force=true", "tracker=wandb"))
    assert base != records.run_key(config(tmp_path, "seed=1"))
    assert base != records.run_key(config(tmp_path, "+ablation=no_dam"))


def test_how_patiently_a_server_is_asked_changes_no_result(tmp_path: Path) -> None:
    asked = ("planner=openai", "planner.model=m")
    base = records.run_key(config(tmp_path, *asked))
    for word in ("timeout=5", "retries=0", "budget=9", "requests_per_minute=3", "price_in=1", "backoff=2"):
        assert base == records.run_key(config(tmp_path, *asked, f"planner.{word}")), word
    for word in ("model=n", "asks=2", "temperature=0", "on_error=fallback", "base_url=http://localhost/v1"):
        assert base != records.run_key(config(tmp_path, *asked, f"planner.{word}")), word


# What a run reads. A row: the words that name `place`, and what lies there.


def picture(place: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(place, "PNG")


def prompts(place: Path) -> None:
    shutil.copytree(stages.SHIPPED / "v1", place)


def vocabulary(place: Path) -> None:
    (place / "tokenizer").mkdir(parents=True)
    (place / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")


def model(place: Path) -> None:
    without_weights(place)
    (place / "unet/weights.safetensors").write_bytes(bytes(2 << 20))


def plans(place: Path) -> None:
    place.mkdir()
    (place / "plan.json").write_text("{}")


def photographs(place: Path) -> None:
    place.mkdir()
    picture(place / "cat.png")
    picture(place / "cat_mask.png")


def weights(place: Path) -> None:
    place.write_bytes(b"weights")


def answers(place: Path) -> None:
    place.write_text("{}")


PHOTO = ("condition=photo", "condition.mask=none")
READS: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "a photograph": ((*PHOTO, "condition.image={}"), picture),
    "the second of two photographs": ((*PHOTO, "condition.image=[sample:grace_hopper.jpg,{}]"), picture),
    "a mask": (("condition=photo", "condition.image=sample:grace_hopper.jpg", "condition.mask={}"), picture),
    "a planner's prompts": (("planner=gemini", "planner.prompt_version={}"), prompts),
    "another planner's prompts": (
        ("planner=openai", "planner.model=m", "planner.prompt_version={}"),
        prompts,
    ),
    "a planner's vocabulary": (("planner=gemini", "planner.tokenizer={}"), vocabulary),
    "the offline planner's vocabulary": (("planner=offline", "planner.tokenizer={}"), vocabulary),
    "the fallback's vocabulary": (("planner=gemini", "planner.fallback.tokenizer={}"), vocabulary),
    "a stored plan": (("planner=replay", "planner.path={}/plan.json"), plans),
    "stored plans": (("planner=replay", "planner.path={}"), plans),
    "a local model": (("model=local", "model.path={}"), model),
    "weights of a metric": (("metrics=faces", "metrics.weights={}"), weights),
    "weights of CLIP": (("metrics=clip", "metrics.pretrained={}"), weights),
    "weights of a metric among several": (("metrics=photos", "metrics.parts.faces.weights={}"), weights),
    "a folder of data": (("study=benchmark", "data=folder", "data.root={}", "data.prompt=a"), photographs),
    "a ControlNet": (("method=controlnet_canny", "method.path={}"), photographs),
    "an IP-Adapter": (("method=ip_adapter", "method.path={}"), photographs),
    "a row's ControlNet": (
        ("study=benchmark", "+study.rows.a={{overrides:['method=controlnet_canny','method.path={}']}}"),
        photographs,
    ),
    "a row's prompts": (
        ("study=benchmark", "+study.rows.a={{overrides:['planner=gemini','planner.prompt_version={}']}}"),
        prompts,
    ),
    "a method's adapter in a study": (
        ("study=information_flow", "+study.methods.A=['method=ip_adapter','method.path={}']"),
        photographs,
    ),
    "curves that are not measured again": (("study=find_phases", "study.runs=[{}]"), photographs),
    "photographs of a grid": (("experiment=fig1", "study.images=[{0}/cat.png]", "model=tiny"), photographs),
    "a survey's key": (("study=preference_tally", "study.key={}", "study.answers={}"), answers),
    "a gallery's runs": (("study=gallery", "study.runs={}"), photographs),
    "a picture that two pictures make": (
        ("study=diffusion_in_diffusion", "study.first={0}/cat.png"),
        photographs,
    ),
}


@pytest.mark.parametrize("what", READS)
def test_the_bytes_that_a_run_reads_are_in_its_key(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "code_digests", lambda *roots: {})
    words, make = READS[what]
    place = tmp_path / "read"
    make(place)
    made = config(tmp_path / "outputs", *(word.format(place) for word in words))
    before = records.run_key(made)
    file = next(f for f in ([place] if place.is_file() else sorted(place.rglob("*"))) if f.is_file())
    data = file.read_bytes()
    file.write_bytes(data + b" ")
    assert records.run_key(made) != before
    file.write_bytes(data)
    assert records.run_key(made) == before


def test_a_file_put_back_with_its_old_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(file_hashes.LARGE))
    before, state = file_hashes.file_sha256(file), file.stat()
    file.write_bytes(bytes(file_hashes.LARGE - 1) + b"1")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns and file_hashes.file_sha256(file) != before
    with pytest.raises(UserError, match="none"):
        file_hashes.file_sha256(tmp_path / "none")


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero")], ids=["a pipe", "a folder", "a device"]
)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "weights")
    with pytest.raises(UserError, match="weights: it is no regular file"):
        file_hashes.file_sha256(tmp_path / "weights")


@dataclass
class Reader:
    """A component that reads one place."""

    place: Path

    def files(self) -> list[Path]:
        return [self.place]


def names_in(contents: dict[str, Any]) -> list[str]:
    """The names of all files that a key holds."""
    return [name for read in contents.values() for one in read["files"] for name, _ in one]


# Two files of which each has a role. A row: the words, and the two that change their contents or their names.


def alike(place: Path) -> None:
    """Two folders with a photograph of one name."""
    for name, colour in (("a", "red"), ("b", "blue")):
        (place / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(place / name / "x.png")


def two_pictures(place: Path) -> None:
    alike(place)
    (place / "a/x.png").rename(place / "a/cat.png")
    (place / "b/x.png").rename(place / "a/cat_mask.png")


def two_plans(place: Path) -> None:
    for name in "ab":
        (place / name).mkdir(parents=True)
        (place / name / "plan.json").write_text(f'{{"of": "{name}"}}')


def two_models(place: Path) -> None:
    for name in "ab":
        without_weights(place / name)
        (place / name / "unet" / "w.safetensors").write_bytes(name.encode())


def two_runs(place: Path) -> None:
    for name in "ab":
        (place / name).mkdir(parents=True)
        (place / name / "manifest.json").write_text(f'{{"key": "{name}", "config": {{}}, "choices": {{}}}}')


def two_parts(place: Path) -> None:
    without_weights(place)
    for part in ("unet", "vae"):
        (place / part / "w.safetensors").write_bytes(part.encode())


PICTURES, PLANS = ("a/x.png", "b/x.png"), ("a/plan.json", "b/plan.json")
BOTH = "condition.image=[{0}/a/x.png,{0}/b/x.png]"
ROLES: dict[str, tuple[tuple[str, ...], Callable[[Path], None], tuple[str, str]]] = {
    "two photographs": ((*PHOTO, BOTH), alike, PICTURES),
    "a photograph and its mask": (
        ("condition=photo", "condition.image={}/a/x.png", "condition.mask={}/b/x.png"),
        alike,
        PICTURES,
    ),
    "masks of two photographs": (
        ("condition=photo", "condition.image=[sample:grace_hopper.jpg,sample:logo2.png]",
         "condition.mask=[{0}/a/x.png,{0}/b/x.png]"),
        alike,
        PICTURES,
    ),
    "pictures of a folder of data": (
        ("study=benchmark", "data=folder", "data.root={}/a", "data.prompt=a"),
        two_pictures,
        ("a/cat.png", "a/cat_mask.png"),
    ),
    "names in a folder of data": (
        ("study=benchmark", "data=folder", "data.root={}", "data.prompt=a"), alike, ("a", "b")
    ),
    "plans of two requests": (("planner=replay", "planner.path={}"), two_plans, PLANS),
    "names of two plans": (("planner=replay", "planner.path={}"), two_plans, ("a", "b")),
    "a planner's prompts": (
        ("planner=gemini", "planner.prompt_version={}"), prompts, ("position.txt", "region.txt")
    ),
    "a model and the unet of another": (
        ("model=local", "model.path={}/a", "+model.unet_path={}/b"), two_models, ("a", "b")
    ),
    "weights of two parts of a model": (
        ("model=local", "model.path={}"), two_parts, ("unet/w.safetensors", "vae/w.safetensors")
    ),
    "photographs of a grid": (
        ("experiment=fig1", "study.images=[{0}/a/x.png,{0}/b/x.png]", "model=tiny"),
        alike,
        PICTURES,
    ),
    "a grid's photograph and mask": (
        ("experiment=fig1", "study.images=[{0}/a/x.png]", "study.masks=[{0}/b/x.png]", "model=tiny"),
        alike,
        PICTURES,
    ),
    "two pictures that make one": (
        ("study=diffusion_in_diffusion", "study.first={0}/a/x.png", "study.second={0}/b/x.png"),
        alike,
        PICTURES,
    ),
    "a survey's key and its answers": (
        ("study=preference_tally", "study.key={}/a/plan.json", "study.answers={}/b/plan.json"),
        two_plans,
        PLANS,
    ),
    "runs of a collection": (("study=collect", "study.folder={}"), two_runs, ("a", "b")),
    "curves of two folders": (("study=find_phases", "study.runs=[{0}/a,{0}/b]"), alike, PICTURES),
    "a picture and a row's ControlNet": (
        (*PHOTO, "condition.image={}/a/x.png", "study=benchmark",
         "+study.rows.a={{overrides:['method=controlnet_canny','method.path={}/b']}}"),
        alike,
        PICTURES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ROLES)
def test_contents_are_bound_to_their_roles(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "code_digests", lambda *roots: {})
    words, make, (one, other) = ROLES[what]
    place = tmp_path / "read"
    make(place)
    words = tuple(word.format(place) for word in words)
    before = records.run_key(config(tmp_path / "outputs", *words))
    for back in (False, True):
        aside = tmp_path / "aside"
        (place / one).rename(aside)
        (place / other).rename(place / one)
        aside.rename(place / other)
        seen = records.run_key(config(tmp_path / "outputs", *words))
        assert (seen == before) == back


def test_linked_folders_are_read_and_what_decides_nothing_is_not(tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "model", tmp_path / "blobs"
    for folder in (place, elsewhere):
        folder.mkdir()
    (elsewhere / "a.bin").write_bytes(b"1")
    (place / "unet").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(place)  # a circle ends
    before = inputs.contents(Reader(place))
    assert names_in(before) == ["model/unet/a.bin"]
    for name in ("README.md", ".DS_Store"):
        (place / name).write_text("said anew")
    assert inputs.contents(Reader(place)) == before
    (elsewhere / "a.bin").write_bytes(b"2")
    assert inputs.contents(Reader(place)) != before


def test_the_place_of_an_input_is_no_part_of_it(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        photographs(tmp_path / name / "data")
    one, other = (inputs.contents([Reader(tmp_path / name / "data")]) for name in "ab")
    assert one == other and names_in(one) == ["data/cat.png", "data/cat_mask.png"]


# The code that a run can reach.

SOW = ("experiment=debug",)
REACHED = [
    (SOW, "sow/method/algorithm.py", True),
    (SOW, "sow/attention/modulation.py", True),
    (SOW, "sow/models/tiny.py", True),
    (SOW, "experiments/generate.py", True),
    (SOW, "sow/people/drawing/render.py", True),  # the condition
    (SOW, "sow/models/pretrained.py", False),
    (SOW, "sow/planner/gemini.py", False),
    (SOW, "sow/baselines/dreambooth.py", False),
    (SOW, "sow/metrics/clip.py", False),
    (SOW, "sow/people/training/denoiser.py", False),
    (SOW, "experiments/benchmark/work.py", False),
    ((*SOW, "planner=gemini"), "sow/planner/stages.py", True),
    ((*SOW, "planner=offline"), "sow/people/judge/network.py", True),
    ((*SOW, "planner=offline"), "sow/people/judge/weights.safetensors", True),
    ((*SOW, "planner=offline"), "sow/people/judge/README.md", False),
    ((*SOW, "metrics=faces"), "sow/metrics/faces.py", True),
    ((*SOW, "metrics=all"), "sow/metrics/clip.py", True),  # a part of several
    ((*SOW, "method=dreambooth"), "sow/baselines/dreambooth.py", True),
    ((*SOW, "study=benchmark"), "experiments/benchmark/work.py", True),
    (
        (*SOW, "study=benchmark", "+study.rows.a={overrides:['method=lanpaint']}"),
        "sow/baselines/lanpaint.py",
        True,
    ),
    ((*SOW, "study=collect"), "experiments/collect_figure.py", True),
    ((*SOW, "study=collect"), "sow/report/figures.mplstyle", True),
    ((*SOW, "data=celeba_tv2i", "data.root=x", "study=benchmark"), "sow/data/celeba_tv2i.yaml", True),
]


@pytest.mark.parametrize(("words", "file", "reached"), REACHED)
def test_the_code_in_a_key_is_what_the_components_reach(
    tmp_path: Path, words: tuple[str, ...], file: str, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (ROOT / file).is_file()
    seen: dict[str, str] = {}
    monkeypatch.setattr(records, "code_digests", lambda *roots: seen.update(code_digests(*roots)) or seen)
    records.run_key(compose([*words, f"paths.outputs={tmp_path}"]))
    assert (file in seen) == reached


def test_the_project_hashes_in_one_place() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for room in code.PROJECT
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Import) and any(a.name in ("hashlib", "zlib") for a in node.names)
    ]
    assert found == ["sow/store/fingerprint.py"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small project in place of this one."""
    files = {
        "sow/__init__.py": "",
        "sow/room/__init__.py": "from sow.room.a import A\nfrom sow.room.b import B\n__all__ = ['A', 'B']\n",
        "sow/room/a.py": '"""A."""\nimport os\nfrom sow import far\n\n\nclass A:\n    """Doc."""\n\n    x = '
        "1  # why\n",
        "sow/room/b.py": "class B:\n    def f(self):\n        from sow.room import lazy\n        return "
        "lazy\n",
        "sow/room/lazy.py": "ENGINE = 'sow.named.Engine'\n",
        "sow/named.py": "class Engine: ...\n",
        "sow/far.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sow.types_only import "
        "T\n",
        "sow/types_only.py": "T = 1\n",
        "sow/data/__init__.py": "",
        "sow/data/table.py": "from ..room import a\n",
        "sow/data/table.yaml": "a: 1\n",
        "sow/data/README.md": "words\n",
        "sow/user.py": "from sow.room import A\n",
        "sow/whole.py": "import sow.room\n",
        "sow/circle.py": "from sow import circle_back\n",
        "sow/circle_back.py": "from sow import circle\n",
        "sow/lazy_all.py": "def f():\n    import sow.data.table as t\n    return t\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.data_beside.cache_clear()
    yield tmp_path
    code.data_beside.cache_clear()


@pytest.mark.parametrize(
    ("root", "reached"),
    [
        ("sow.user", "user room/__init__ room/a far"),  # the package passes on A; B is not wanted
        ("sow.room.B", "room/__init__ room/b room/lazy named"),
        ("sow.whole", "whole room/__init__ room/a room/b room/lazy named far"),
        ("sow.far", "far"),
        ("sow.data.table", "data/__init__ data/table room/__init__ room/a far"),
        ("sow.circle", "circle circle_back"),
        ("sow.room.lazy", "room/__init__ room/lazy named"),
        ("sow.lazy_all", "lazy_all data/__init__ data/table room/__init__ room/a far"),
    ],
)
def test_imports_are_followed(project: Path, root: str, reached: str) -> None:
    found = {p.relative_to(project).as_posix() for p in closure([root])}
    assert found == {"sow/__init__.py", *(f"sow/{name}.py" for name in reached.split())}


SAME = {
    "a docstring": ('"""A."""', '"""Another."""'),
    "a class's docstring": ('"""Doc."""', '"""More\n    words."""'),
    "no docstring": ('    """Doc."""\n\n', ""),
    "a comment": ("# why", "# because"),
    "blank lines": ("\n\n\nclass", "\n\n\n\n\n# a line\nclass"),
    "quotes and spaces": ("x = 1", "x  =  (1)"),
}
OTHER = {
    "a number": ("x = 1", "x = 2"),
    "a name": ("x = 1", "y = 1"),
    "an import": ("import os", "import sys"),
    "a decorator": ("class A", "@print\nclass A"),
    "a text that is used": ("x = 1", "x = 'Doc.'"),
}


@pytest.mark.parametrize(("change", "same"), [*((c, True) for c in SAME), *((c, False) for c in OTHER)])
def test_what_changes_a_file_changes_its_digest(project: Path, change: str, same: bool) -> None:
    before = fingerprint_code("sow.user")
    old, new = (SAME | OTHER)[change]
    file = project / "sow/room/a.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert (fingerprint_code("sow.user") == before) == same
    assert fingerprint_code("sow.room.B") == fingerprint_code("sow.room.B")


def test_data_beside_code_counts_and_notes_do_not(project: Path) -> None:
    before = code_digests("sow.data.table")
    assert "sow/data/table.yaml" in before and not any("README" in name for name in before)
    (project / "sow/data/table.yaml").write_text("a: 2\n")
    assert fingerprint_code("sow.data.table") != fingerprint.fingerprint(before)


def test_a_language_model_reads_the_docstrings_of_its_answers(project: Path) -> None:
    file = project / "sow/room/a.py"
    text = "class A(BaseModel):\n    '''The box.'''\n    x: int\n"
    file.write_text(text)
    before = fingerprint_code("sow.user")
    file.write_text(text.replace("box", "place"))
    assert fingerprint_code("sow.user") != before


@pytest.mark.parametrize("name", ["sow.room.x.y", "sow.room.nothing.A", "experiments.nothing.Study"])
def test_a_root_that_is_nowhere_is_refused(project: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        closure([name])


def test_a_component_of_ones_own_counts_with_its_file() -> None:
    class Mine:
        pass

    assert list(code_digests(Mine)) == [Mine.__module__]


def test_every_component_that_conf_names_says_what_it_reads(tmp_path: Path) -> None:
    """A field whose name is that of a file belongs to a component that declares files."""
    from sow.config.schema import locate

    names = {
        "path",
        "image",
        "mask",
        "root",
        "weights",
        "pretrained",
        "tokenizer",
        "prompt_version",
        "runs",
        "key",
    }
    targets = {
        line.partition("_target_:")[2].split("#")[0].strip()
        for file in (ROOT / "conf").rglob("*.yaml")
        for line in file.read_text().splitlines()
        if "_target_: sow." in line or "_target_: experiments." in line
    }
    silent = []
    for target in sorted(t for t in targets if not t.startswith(("sow.config.sweeping", "sow.runs.folders"))):
        cls: Any = locate(target, target)
        fields = set(getattr(cls, "__dataclass_fields__", ()))
        if fields & names and not hasattr(cls, "files"):
            silent.append((target, fields & names))
    assert [t for t, f in silent if f != {"mask"}] == []  # a mask of the seed's start is a rule


def test_a_model_whose_files_have_changed_is_loaded_again(tmp_path: Path) -> None:
    """In one process too, or the old picture would be kept under the new files' key."""
    import torch
    from checkpoints import save_tiny
    from safetensors.torch import load_file, save_file

    from sow.pipeline.factory import build

    place = save_tiny(tmp_path / "model")
    words = ["model=local", f"model.path={place}", "model.device=cpu", "calibration=paper", "metrics=none"]
    first = build(compose(words)).backbone
    assert build(compose(words)).backbone is first
    (file,) = (place / "unet").glob("*.safetensors")
    save_file({k: v * 1.5 for k, v in load_file(file).items()}, file, {"format": "pt"})
    second = build(compose(words)).backbone
    pairs = zip(first.unet.parameters(), second.unet.parameters(), strict=True)
    assert second is not first and all(torch.allclose(a * 1.5, b) for a, b in pairs)
