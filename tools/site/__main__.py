"""`python -m tools.site`: the pages into build/docs, and the site into build/site, where a broken link is an
error.

python -m tools.site           # needs the group docs: uv run --group docs python -m tools.site
python -m tools.site --pages   # the pages that conf/ writes, docs/configuration.md and docs/deviations.md,
                               alone
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.site import api, configuration

ROOT = Path(__file__).resolve().parents[2]
LOOSE = {  # pages that lie elsewhere in the repository, and where they lie on the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "sow/people/weights/README.md": "cards/people.md",
    "sow/people/judge/README.md": "cards/judge.md",
    "sow/people/controlnet/README.md": "cards/controlnet.md",
    "integrations/comfyui/README.md": "cards/comfyui.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)


def written_pages(root: Path = ROOT) -> dict[str, str]:
    """The pages of docs/ that conf/ writes, by name."""
    return {
        "configuration.md": configuration.configuration(root / "conf"),
        "deviations.md": configuration.deviations(root / "conf"),
    }


def pages(root: Path = ROOT) -> dict[str, str]:
    """Every page of the site by its place, links between files of the repository made links between pages."""
    rooms = api.rooms(root)
    places = {f"docs/{p.name}": p.name for p in sorted((root / "docs").glob("*.md"))} | LOOSE
    modules = {
        file.relative_to(root).as_posix(): f"api/{room}.md#{api.anchor(api.name_of(file, root))}"
        for room, files in rooms.items()
        for file in files
    }
    out = {
        target: relink((root / source).read_text(encoding="utf-8"), source, target, places | modules, root)
        for source, target in places.items()
    }
    for room, files in rooms.items():
        out[f"api/{room}.md"] = api.page(room, files, root)
    lines = [f"- [{room}]({room}.md)" for room in rooms]
    out["api/index.md"] = "\n".join(
        ["# API", "", "The rooms of the package, from their docstrings.", "", *lines, ""]
    )
    return out


def relink(text: str, source: str, target: str, places: dict[str, str], root: Path) -> str:
    """Links of the page `source` as they are on the page `target`; files of the repository that are no page
    lose theirs.

    Raises ValueError for a link to a file that does not exist.
    """
    up = "../" * target.count("/")

    def new(match: re.Match[str]) -> str:
        mark, words, link, tail = match[1], match[2], match[3], match[4] or ""
        if not link or ":" in link:
            return match[0]
        file = (root / source).parent.joinpath(link).resolve()
        if not file.exists():
            raise ValueError(f"{source} links to {link}, which does not exist")
        inside = file.relative_to(root).as_posix()
        if inside.startswith("docs/figures/"):
            return f"{mark}[{words}]({up}{inside.removeprefix('docs/')})"
        if inside in places:
            place = places[inside]
            return f"{mark}[{words}]({up}{place}{'' if '#' in place else tail})"
        return words

    parts = CODE.split(text)  # words and code in turn; code stays as it is, also inside the words of a link
    parts[::2] = LINK.sub(new, "\0".join(parts[::2])).split("\0")
    return "".join(parts)


def write(root: Path = ROOT) -> None:
    """The pages that conf/ writes into docs/, and all pages and pictures into build/docs."""
    for name, text in written_pages(root).items():
        (root / "docs" / name).write_text(text, encoding="utf-8")
    built = root / "build" / "docs"
    shutil.rmtree(built, ignore_errors=True)
    for place, text in pages(root).items():
        file = built / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copytree(root / "docs" / "figures", built / "figures")


def main() -> int:
    """See the module; the exit status."""
    if sys.argv[1:] == ["--pages"]:
        for name, text in written_pages().items():
            (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        return 0
    write()
    return subprocess.run(["zensical", "build", "--strict", "--clean"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
