"""What the documents and the code refer to exists: linked files and headings, named pages, behaviours and decisions."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PYTHON = [
    file
    for package in sorted(ROOT.iterdir())
    if package.is_dir() and not package.name.startswith(".") and package.name not in ("out", "build", "docs")
    for file in sorted(package.rglob("*.py"))
] + sorted(DOCS.rglob("*.py"))

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PAGE_NAME = re.compile(r"(?<![\w*{}])([\w./-]*\w\.md)\b")
_IDS = re.compile(r"behaviours\.md ((?:[A-F]\d+(?:, | and | to |, and )?)+)")
_DECISIONS = re.compile(r"decisions\.md (\d+)")
_DEFINED_ID = re.compile(r"^### ([A-F]\d+) ", re.MULTILINE)
_DEFINED_DECISION = re.compile(r"^### (\d+)\. ", re.MULTILINE)


@cache
def prose(file: Path) -> str:
    """Comments and docstrings of a Python file, one a line, each with its line breaks removed."""
    source = file.read_text()
    if ".md" not in source:  # every reference names a page, and tokenizing all files takes seconds
        return ""
    found = [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = " ".join(token.string.lstrip("#! ") for token in tokens if token.type == tokenize.COMMENT)
    return "\n".join(" ".join(text.split()) for text in [*found, comments])


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return frozenset(re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles)


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of `text`, as part of `page`, that lead nowhere."""
    return [link for link in _LINK.findall(_FENCE.sub("", text)) if "://" not in link and not _leads(page, link)]


def _leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def _texts() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield page, page.read_text()
    for file in PYTHON:
        yield file, prose(file)


def _numbers(text: str) -> set[str]:
    """The behaviours that `text` refers to; `C1 to C5` names each of the five."""
    found = set()
    for listed in _IDS.findall(text):
        for first, last in re.findall(r"([A-F]\d+)(?: to ([A-F]\d+))?", listed):
            numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
            found |= {f"{first[0]}{number}" for number in numbers}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_relative_link_resolves(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_each_page_named_in_python_exists() -> None:
    missing = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in PYTHON
        for name in _PAGE_NAME.findall(prose(file))
        if not any((folder / name).is_file() for folder in (ROOT, DOCS, file.parent))
    ]
    assert missing == []


def test_each_behaviour_that_is_referred_to_exists() -> None:
    defined = set(_DEFINED_ID.findall((DOCS / "behaviours.md").read_text()))
    missing = [f"{file.relative_to(ROOT)}: {id_}" for file, text in _texts() for id_ in _numbers(text) - defined]
    assert missing == []


def test_each_decision_that_is_referred_to_exists() -> None:
    defined = _DEFINED_DECISION.findall((DOCS / "decisions.md").read_text())
    assert defined == [str(number) for number in range(1, len(defined) + 1)]
    missing = [
        f"{file.relative_to(ROOT)}: {number}"
        for file, text in _texts()
        for number in _DECISIONS.findall(text)
        if number not in defined
    ]
    assert missing == []


def test_a_reference_that_leads_nowhere_is_found() -> None:
    page = DOCS / "behaviours.md"
    text = (
        "[a](decisions.md#tables) [b](no-such-page.md) [c](decisions.md#no-such-heading) [d](https://example.com/x.md)"
    )
    assert broken_links(page, text) == ["no-such-page.md", "decisions.md#no-such-heading"]
    assert _PAGE_NAME.findall("see docs/scaling.md, behaviours.md C3 and *.md") == ["docs/scaling.md", "behaviours.md"]
    assert _numbers("behaviours.md C1 to C3, D9 and A1") == {"C1", "C2", "C3", "D9", "A1"}
    assert _DECISIONS.findall("docs/decisions.md 14") == ["14"]
    assert {"behaviours.md", "docs/performance.md"} <= {name for f in PYTHON for name in _PAGE_NAME.findall(prose(f))}
