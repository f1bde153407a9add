"""What mkdocs does beside its own: pages that lie outside docs/, and links that hold on GitHub and on the site.

A page links to files of the repository as GitHub wants it, relative to where it lies. On the site links to pages and
pictures are turned to their places there, links to other files become plain text. A link to nothing fails the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def outside() -> dict[str, Path]:
    """Place on the site -> file, of what is shown and lies outside docs/."""
    shown = {"changelog.md": ROOT / "CHANGELOG.md", "contributing.md": ROOT / "CONTRIBUTING.md"}
    for path in sorted((ROOT / "experiments").rglob("*")):
        if path.suffix in (".md", ".png"):
            place = path.relative_to(ROOT).as_posix()
            shown[re.sub(r"README\.md$", "index.md", place)] = path
    return shown


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, path in outside().items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    places = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    source = Path(page.file.abs_src_path).resolve()

    def moved(link: re.Match) -> str:
        picture, text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        found = (source.parent / path).resolve()
        if not found.exists():
            raise PluginError(f"{source.relative_to(ROOT)}: links to {target}, which does not exist")
        if found not in places:
            return link[0] if picture else text
        near = os.path.relpath(places[found], Path(page.file.src_uri).parent)
        return f"{picture}[{text}]({near}{hash_sign}{anchor})"

    kept, last = [], 0
    for fence in FENCE.finditer(markdown):
        kept += [LINK.sub(moved, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*kept, LINK.sub(moved, markdown[last:])])
