"""Builds the site of the docs: mkdocs calls these functions (mkdocs.yml).

README, changelog and other pages of the repository's root become pages of the site. A link to a file that is not on the
site, such as a module, becomes its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
"""Pages of the repository's root, and their places on the site."""

_LINK = re.compile(r"(!?)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def slug(title: str, _: str = "-") -> str:
    """Returns the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def for_the_site(text: str, source: str) -> str:
    """Returns the text of the page `source` (its path in the repository) with links that work on the site."""
    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lambda found: _link(found, source), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str) -> str:
    mark, text, link = found.groups()
    path, hash_, anchor = link.partition("#")
    if "://" in link or not path:
        return found[0]
    target = _place(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
    if target is None:
        return text
    folder = posixpath.dirname(_place(source) or "")
    return f"{mark}[{text}]({posixpath.relpath(target, folder or '.')}{hash_}{anchor})"


def _place(path: str) -> str | None:
    """Returns where a file of the repository is on the site."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    inside = path.removeprefix("docs/")
    return inside if inside != path and (ROOT / path).is_file() else None


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives headings the anchors that the links of the pages use."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages of the repository's root."""
    from mkdocs.structure.files import File

    for source, place in ROOT_PAGES.items():
        text = for_the_site((ROOT / source).read_text(), source)
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Rewrites the links of a page below docs/."""
    place = page.file.src_uri
    return markdown if place in ROOT_PAGES.values() else for_the_site(markdown, f"docs/{place}")
