"""What the site has beside docs/: the README, two rooms' READMEs, the changelog, the notebook.

Links are written for GitHub. Here those to other pages are turned, and those to code lose their
target, since the site holds no code.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {  # of the site, and the files they are made of
    "index.md": "README.md",
    "rooms/tokenizers.md": "tokenkit/tokenizers/README.md",
    "rooms/data.md": "tokenkit/data/README.md",
    "changelog.md": "CHANGELOG.md",
    "alm_from_scratch.md": "examples/alm_from_scratch.ipynb",
}
INLINE_CODE = re.compile(r"(?<!</span>)<code>[^<]*</code>")
HYPHENATED = re.compile(r"(?<![^\s>])[^\s<>]*-[^\s<>]{1,40}(?![^\s<])")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config):
    config.nav = [present(entry) for entry in config.nav]
    return config


def present(entry):
    """An entry of the navigation without pages that do not exist."""
    ((title, pages),) = entry.items()
    if isinstance(pages, str):
        return entry
    exists = [p for p in pages if p in PAGES or (ROOT / "docs" / p).is_file()]
    return {title: exists}


def on_files(files, config):
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = as_markdown(json.loads(text)) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=text))
    return files


def as_markdown(notebook) -> str:
    """Cells and their outputs."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            picture = "".join(output.get("data", {}).get("image/svg+xml", ""))
            printed = "".join(output.get("text", ""))
            parts.append(picture.strip() or f"```text\n{printed}```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown, page, config, files):
    """Links from this page's place in the repository to places in the site."""
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")
    pages = {file: name for name, file in PAGES.items()}

    def turned(link: re.Match) -> str:
        picture, text, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = pages.get(full) or (full.removeprefix("docs/") if full.startswith("docs/") else "")
        if not place:
            return text
        place = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{picture}[{text}]({place}{'#' + anchor if anchor else ''})"

    return LINK.sub(turned, markdown)


def on_page_content(html, page, config, files):
    """Roles of docstrings, such as :func:`name`, as plain code; options that stay in one line."""
    html = re.sub(r":(?:func|class|mod|meth|data|attr):(<code>)~?", r"\1", html)
    return INLINE_CODE.sub(
        lambda code: HYPHENATED.sub(r'<span class="whole">\g<0></span>', code[0]), html
    )
