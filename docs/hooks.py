"""What mkdocs shows besides docs/: changelog, model cards, contributing and the notebooks, which lie where people look.

Links keep the form that leads somewhere in the repository, and are turned here into those of the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "MODEL_CARD.md": "model-cards.md",
    "CONTRIBUTING.md": "contributing.md",
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob("notebooks/*.ipynb"))},
}
"""File of the repository -> page of the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies outside docs/."""
    for source, page in ELSEWHERE.items():
        path = ROOT / source
        text = notebook(path) if path.suffix == ".ipynb" else path.read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    pages = {page: source for source, page in ELSEWHERE.items()}
    here = page.file.src_uri
    origin = posixpath.dirname(pages.get(here, f"docs/{here}"))

    def turned(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if target.startswith(("http:", "https:", "data:")):
            return match[0]
        file = posixpath.normpath(posixpath.join(origin, target))
        meant = ELSEWHERE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if meant is None:  # of the repository alone
            return (f"`{text}`" if "/" in text else text) if (ROOT / file).exists() else match[0]
        return f"[{text}]({posixpath.relpath(meant, posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark the words of code in sentences, so that none is broken after its dashes."""

    def words(match: re.Match[str]) -> str:
        marked = re.sub(r"(?<![^ ])[^ ]{1,28}(?![^ ])", r'<span class="word">\g<0></span>', match[1])
        return f"<code>{marked}</code>"

    return re.sub(r"(?<!<span></span>)<code>([^<]+)</code>", words, html)


def notebook(path: Path) -> str:
    """Write a notebook with its outputs as markdown."""
    return "\n\n".join(part for cell in json.loads(path.read_text("utf-8"))["cells"] for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> list[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        # of a heading, mkdocs makes another anchor than a notebook's viewer
        return [re.sub(r"\]\(#[^)]*\)", lambda link: _anchor(link[0]), text)]
    parts = [f"```python\n{text}\n```"]
    said: list[str] = []
    for output in [*cell.get("outputs", []), {}]:
        data = output.get("data", {})
        form = next((form for form in ("image/png", "image/jpeg") if form in data), None)
        if form is None and ("text" in output or "text/plain" in data):
            said.append("".join(output.get("text") or data["text/plain"]).strip("\n"))
        elif said:  # what was printed in pieces is one block
            parts.append("``` {.text .output .no-copy}\n" + "\n".join(said) + "\n```")
            said = []
        if form:
            parts.append(f"![figure](data:{form};base64,{''.join(data[form]).strip()})")
    return parts


def _anchor(link: str) -> str:
    words = re.sub(r"[^\w\s-]", "", link[3:-1].replace("-", " ")).strip().lower()
    return "](#" + re.sub(r"[-\s]+", "-", words) + ")"
