"""The wheel: what lies in it, what its installation leaves alone,
and that its command works among files of its own names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with stand-ins of all that sow needs,
    a CPU build of torch among them, and then the wheel."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "install uv (python3 -m pip install uv)"
    around = tmp_path_factory.mktemp("environment")  # somebody's repository, whose commit is not sow's
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=around, check=True)
    folder = around / "venv"
    subprocess.run([uv, "venv", "-q", "--offline", "--python", sys.executable, folder], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    for text in metadata.requires("sow") or ():
        need = Requirement(text)
        if need.marker is None:
            stand_in(
                packages, need.name, "2.99.0+cpu" if need.name == "torch" else metadata.version(need.name)
            )
    words = [
        uv,
        "pip",
        "install",
        "-q",
        "--offline",
        "--no-config",
        "--python",
        folder / "bin" / "python",
        wheel,
    ]
    subprocess.run(words, check=True)
    return folder


def stand_in(packages: Path, name: str, version: str) -> None:
    """An installed distribution of nothing but its name and one file."""
    module = name.replace("-", "_").lower()
    (packages / module).mkdir()
    (packages / module / "__init__.py").write_text(f"stand_in = '{name} {version}'\n")
    info = packages / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    (info / "INSTALLER").write_text("test\n")


def test_the_wheel_carries_configuration_and_studies_under_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0].partition("-")[0] for n in names} == {"sow"}
    for folder in ("conf", "experiments"):
        there = {
            p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".yaml")
        }
        assert there <= {n.removeprefix("sow/") for n in names}


def test_installing_leaves_the_torch_that_is_there(environment: Path) -> None:
    (packages,) = environment.glob("lib/*/site-packages")
    found = sorted(p.name for p in packages.glob("torch*"))
    assert found == ["torch", "torch-2.99.0+cpu.dist-info", "torchvision", *found[3:]] and len(found) == 4
    assert (packages / "torch" / "__init__.py").read_text() == "stand_in = 'torch 2.99.0+cpu'\n"
    assert (packages / "sow" / "conf" / "config.yaml").is_file()


def test_the_command_works_among_files_of_its_own_names(environment: Path, tmp_path: Path) -> None:
    """In a folder with a conf/, an experiments/ and a run.py of its user's."""
    for name in (
        "conf/config.yaml",
        "experiments/__init__.py",
        "experiments/generate.py",
        "run.py",
        "sow.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong file')\n")
    real = Path(
        metadata.distribution("torch").locate_file("")
    )  # all but sow, which lies there as a link to the checkout
    done = subprocess.run(
        [environment / "bin" / "sow", "experiment=debug", "cycle.cycles=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(real)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("outputs/*/*/manifest.json")
    assert (manifest.parent / "image.png").is_file()
    assert '"git": null' in manifest.read_text()
