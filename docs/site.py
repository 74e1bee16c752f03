"""A hook of MkDocs: the repository's pages make one site, and links that are right in the repository are right there, too.

Pages lie in `docs/`, but also beside what they tell of: README, `benchmarks/results/`. All of them join the site, and each
link is followed through the repository to the page that it means.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
JOINED = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/**/*.md",
    "benchmarks/**/*.png",
    "examples/*.py",
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
RENAMED = {"README.md": "index.md"}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Join the pages that lie elsewhere."""
    for pattern in JOINED:
        for path in sorted(ROOT.glob(pattern)):
            inside = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, RENAMED.get(inside, inside), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links through the repository into links through the site; what the site has not is told in words alone."""
    here = page.file.src_uri
    own = next((name for name, shown in RENAMED.items() if shown == here), None)
    in_docs = own is None and not (ROOT / here).is_file()
    place = own or (f"docs/{here}" if in_docs else here)

    def moved(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, sharp, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return match[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
        shown = RENAMED.get(meant, meant.removeprefix("docs/"))
        if files.get_file_from_path(shown) is None:
            if not (ROOT / meant).exists():
                return match[0]  # MkDocs will tell
            return text
        return f"{image}[{text}]({posixpath.relpath(shown, posixpath.dirname(here) or '.')}{sharp}{anchor})"

    return LINK.sub(moved, markdown)
