"""The site of the docs: every page is in its menu, and every link of a page leads to a file of the site.

mkdocs itself is not needed here; `make docs` builds the site with it.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.paths import ROOT
from tests.unit.test_references import anchors

DOCS = ROOT / "docs"


def _hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "deploy" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = _hooks()
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
SOURCES = {place: ROOT / source for source, place in hooks.ROOT_PAGES.items()} | {
    str(page.relative_to(DOCS)): page for page in DOCS.rglob("*.md")
}
"""Place on the site → file."""


def _menu(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from _menu(value) if isinstance(value, list) else [value]


def test_the_menu_has_every_page_once() -> None:
    assert sorted(_menu(SITE["nav"])) == sorted(SOURCES)


@pytest.mark.parametrize("place", SOURCES)
def test_every_link_leads_to_a_page_or_file_of_the_site(place: str) -> None:
    source = SOURCES[place]
    text = hooks.for_the_site(source.read_text(), str(source.relative_to(ROOT)))
    without_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), path)) if path else place
        file = SOURCES.get(target, DOCS / target)
        assert file.is_file(), link
        assert not anchor or anchor in anchors(file), link


def test_a_link_to_a_file_that_is_not_on_the_site_becomes_its_name() -> None:
    text = "[c](../docker-compose.yml) [`m`](../ops/cli.py) [x](https://x.test) ![i](images/a.png) "
    shown = hooks.for_the_site(text + "[r](../README.md#use-it)", "docs/console.md")
    assert shown == "c `m` [x](https://x.test) i [r](index.md#use-it)"
    picture = "![i](images/console-event.png)"
    assert hooks.for_the_site(picture, "docs/console.md") == picture
    assert hooks.for_the_site("![i](docs/images/console-event.png)", "README.md") == picture
    assert hooks.for_the_site("```\n[c](../x)\n```\n", "docs/console.md") == "```\n[c](../x)\n```\n"


def test_headings_have_the_anchors_of_github() -> None:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", (DOCS / "runbook.md").read_text()), re.MULTILINE)
    assert {hooks.slug(title) for title in titles} == anchors(DOCS / "runbook.md")


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert SITE["theme"]["highlightjs"] is False
    assert not {"repo_url", "extra_css", "extra_javascript", "copyright"} & SITE.keys()
    assert "http" not in (ROOT / "requirements-docs.lock").read_text()  # no index of ours
