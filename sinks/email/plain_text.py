"""Makes the plain text of a mail from its HTML, for a template that has only HTML."""

from __future__ import annotations

import re
import textwrap
from html.parser import HTMLParser

_COLUMNS = 72
_PARAGRAPHS = frozenset({"address", "blockquote", "div", "h1", "h2", "h3", "h4", "hr", "ol", "p", "table", "ul"})
_LINES = frozenset({"br", "dd", "dt", "tr"})
_HIDDEN = frozenset({"script", "style", "title"})
"""Not `head`: a page that does not close it would have no text."""
_WHITE = re.compile(r"[ \t\r\n\f]+")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0
        self._links: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "a":
            self._links.append((given.get("href") or "", len(self.parts)))
        elif tag == "img" and not self._hidden:
            self.parts.append(given.get("alt") or "")
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag in ("td", "th"):
            self.parts.append(" ")
        else:
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "a" and self._links:
            url, began = self._links.pop()
            label = "".join(self.parts[began:]).strip()
            if url and not self._hidden and url not in (label, f"mailto:{label}"):
                self.parts.append(f":\n{url}\n" if label else url)
        elif tag != "br":
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(_WHITE.sub(" ", data))

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self.parts.append("\n\n")
        elif tag in _LINES:
            self.parts.append("\n")


def plain_text(html: str) -> str:
    """Returns the visible text in lines of at most 72 characters. The address of a link has a line of its own."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = [" ".join(line.split(" ")).strip(" ") for line in "".join(reader.parts).split("\n")]
    wrapped = [
        line if "://" in line else textwrap.fill(line, _COLUMNS, break_long_words=False, break_on_hyphens=False)
        for line in lines
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(wrapped)).strip()
