"""The documentation: its links and paths exist, its commands mean something,
its written pages are current, README is short."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sow.config import comments
from sow.config.compose import compose
from tools.site import __main__ as site

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in site.LOOSE)])
COMMAND = re.compile(r"(?:uv run(?: --extra \w+)? )?(?:python )?run\.py|sow(?= )")
FOLDERS = ("sow/", "conf/", "experiments/", "tests/", "tools/", "docs/", "notebooks/", "benchmarks/", ".ci/")


def written(page: Path) -> str:
    """What people wrote on a page: without what commands publish there."""
    return re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", page.read_text(), flags=re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of each run.py line of a page's shell blocks."""
    out = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
        for line in block.splitlines():
            if match := COMMAND.match(line):
                out.append(shlex.split(line[match.end() :], comments=True))
    return out


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 200 and len(text.encode()) <= 15_000 and max(map(len, lines)) <= 400


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_paths_exist(page: Path) -> None:
    """Links from file to file, as on GitHub, and paths that stand as code."""
    text = written(page)
    links = [m[3] for m in site.LINK.finditer(text) if m[3] and ":" not in m[3]]
    lost = [link for link in links if not page.parent.joinpath(link).exists()]
    for name, file in re.findall(r"\[`(\w+)`\]\(([^)#]+\.py)\)", text):  # a name leads to where it is defined
        if not re.search(
            rf"^(?:@\w.*\n)?(?:def|class) {name}\b|^{name} =", page.parent.joinpath(file).read_text(), re.M
        ):
            lost.append(f"{name} in {file}")
    for path in re.findall(r"`([\w./-]+)`", text):
        if path.startswith(FOLDERS) and not re.search(
            r"[A-Z]{4}", path
        ):  # conf/GROUP/OPTION.yaml is a pattern
            lost += [] if (ROOT / path).exists() else [path]
    assert not lost


def test_every_published_picture_is_shown() -> None:
    text = "".join(p.read_text() for p in PAGES)
    lost = [p.name for p in (ROOT / "docs" / "figures").iterdir() if p.name not in text]
    assert not lost


@pytest.mark.parametrize(
    "page", [p for p in PAGES if commands(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_documented_commands_compose(page: Path, tmp_path: Path) -> None:
    """On the model of random weights, and without the folders and servers that a reader has."""
    for words in commands(page):
        if words[:1] == ["demo"]:
            words = [w for w in words[1:] if not w.startswith("port=")]
        if "--config-dir" in words or "--cfg" in words or words[:1] == ["pipeline"]:
            continue
        plain = [w for w in words if not w.startswith(("-", "hydra", "method.lora"))]
        assert all("=" in word for word in plain), words
        single = [w.split(",")[0] if not re.search(r"[\[({ ]", w) else w for w in plain]
        kept = [w for w in single if "range(" not in w and not w.startswith(("model=", "model."))]
        if any(w.startswith("condition.image=") for w in kept) and "condition=photo" not in kept:
            kept.insert(0, "condition=photo")  # real models choose it themselves
        compose(["model=tiny", *kept])


@pytest.mark.parametrize("name", sorted(site.written_pages()))
def test_written_pages_are_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == site.written_pages()[name], "run `just pages`"


def test_every_field_and_its_comment_is_read() -> None:
    text = (
        "# Head.\n_target_: a.B\nt: 5 # five\nlist: [1, 2] # two\nnested: # above\n  deep: 1.0 # ASSUMPTION "
        "A7: this; alternative t=1\nrows: # of text\n  - one # 1\n  - two\n# above\n# it\nwords: 'a # b' # "
        "c\n"
    )
    found = {f.name: (f.value, f.comment) for f in comments.fields(text)}
    assert found == {
        "_target_": ("a.B", ""),
        "t": ("5", "five"),
        "list": ("[1, 2]", "two"),
        "nested.deep": ("1.0", "ASSUMPTION A7: this; alternative t=1"),
        "rows": ("[one, two]", "of text"),
        "words": ("'a # b'", "above it c"),
    }
    assert comments.about(text) == "Head."


def test_every_assumption_is_listed() -> None:
    marked = set()
    for file in (ROOT / "conf").rglob("*.yaml"):
        marked |= set(re.findall(r"ASSUMPTION (A\d+)", file.read_text()))
    listed = set(re.findall(r"^\| (A\d+) \|", (ROOT / "docs" / "deviations.md").read_text(), re.M))
    assert listed == marked and len(marked) >= 20


def test_links_become_those_of_the_site(tmp_path: Path) -> None:
    for name in ("docs/figures/x.png", "sow/a.py", "conf/c.yaml", "docs/b.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    places = {"docs/b.md": "b.md", "sow/a.py": "api/sow.md#sowa"}
    text = "[`a`](../sow/a.py) `[c](none)` [d](../conf/c.yaml) ![x](figures/x.png) [b](b.md#h) [out](https://x.org)"
    new = "[`a`](../api/sow.md#sowa) `[c](none)` d ![x](../figures/x.png) [b](../b.md#h) [out](https://x.org)"
    assert site.relink(text, "docs/p.md", "cards/p.md", places, tmp_path) == new
    with pytest.raises(ValueError, match="docs/p.md links to gone.md"):
        site.relink("[a](gone.md)", "docs/p.md", "p.md", places, tmp_path)


def test_the_site_has_every_page_in_its_menu() -> None:
    made = site.pages()
    menu = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = [
        page
        for part in menu
        for entry in part.values()
        for page in ([entry] if isinstance(entry, str) else entry)
    ]
    assert set(named) == {name for name in made if "/" not in name} | {"api/index.md"}
    assert all(made[name].startswith("# ") for name in made)


def test_the_example_of_an_option_runs(tmp_path: Path) -> None:
    """README's class and YAML, put where it says, are an option."""
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(@component.*?)```", text, re.S)
    values = re.search(r"```yaml\n# conf/decay_time/linear.yaml\n(.*?)```", text, re.S)
    assert code and values
    (tmp_path / "decay_time").mkdir()
    (tmp_path / "decay_time" / "linear.yaml").write_text(values[1])
    program = (
        "from pathlib import Path\nfrom typing import Annotated\nimport yaml\nfrom sow.attention import "
        "decay\nfrom sow.config import trust\nfrom sow.config.schema import instantiate\n"
        f"trust.CONF = Path({str(tmp_path)!r})\n"
        f"from sow.types import Bound, component\nexec({code[1]!r}, vars(decay) | globals(), vars(decay))\n"
        "decay.LinearTimeDecay.__module__ = decay.__name__\n"
        f"made = instantiate(yaml.safe_load({values[1]!r}), 'decay_time')\n"
        "print(made.factors(5, 0, 10, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(0.5, 0.5)", done.stderr
