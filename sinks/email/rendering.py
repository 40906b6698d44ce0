"""Renders a mail: takes template name, data and locale; returns subject, HTML and plain text.

Each mail is written once per language, from pieces (paragraph, facts, button) that exist in HTML and in plain text, so
both versions have the same content. A language is a folder under templates/.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from babel import Locale
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from schemas.mail import LANGUAGES, MAILS, OPERATOR_MAILS, OPTIONAL_MAILS, MailData, UnknownTemplate, one_line
from sinks.email.localize import Words, choose_locale

_FOLDER = Path(__file__).parent / "templates"
_COLUMNS = 72
_BLANK_LINES = re.compile(r"\n{3,}")
NAMES = frozenset(file.stem for file in _FOLDER.glob("*/*.j2")) - {"words"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """One mail's content. `subject` is one line."""

    subject: str
    html: str
    text: str


@dataclass(frozen=True, slots=True)
class Brand:
    """The product name and address shown in every mail."""

    product: str
    app_url: str


class Templates:
    """All mails in all languages, compiled on first use."""

    def __init__(self, brand: Brand) -> None:
        self._brand = brand
        self._html = _environment(autoescape=True)
        self._text = _environment(autoescape=False)

    def render(
        self, template: str, data: MailData, locales: Iterable[str | None], *, unsubscribe_url: str | None = None
    ) -> Rendered:
        """Render the mail in the first of `locales` that has templates, else in English.

        Raises UnknownTemplate, UnknownCurrency.
        """
        if template not in MAILS:
            raise UnknownTemplate(template)
        locale = choose_locale(locales, LANGUAGES)
        values = self._values(template, data, locale, unsubscribe_url)
        name = f"{locale.language}/{template}.j2"
        source = self._text.get_template(name)
        heading = "".join(source.blocks["subject"](source.new_context(values)))
        subject = values["subject"] = one_line(heading)
        # The heading keeps its no-break spaces, so an amount and its currency stay on one line; the Subject header
        # gets plain spaces.
        values["heading"] = "\xa0".join(map(one_line, heading.split("\xa0")))
        text = source.render(values | {"layout": "layout.txt.j2", "pieces": "pieces.txt.j2"})
        html = self._html.get_template(name).render(
            values | {"layout": "layout.html.j2", "pieces": "pieces.html.j2"},
        )
        return Rendered(subject=subject, html=html, text=_BLANK_LINES.sub("\n\n", text).strip() + "\n")

    def _values(self, template: str, data: MailData, locale: Locale, unsubscribe_url: str | None) -> dict[str, object]:
        # Field by field, not model_dump(): `words.money` wants Money, not a dict.
        values: dict[str, object] = {field: getattr(data, field) for field in type(data).model_fields}
        if "link" in values:
            values["link_url"] = values.pop("link")  # templates use the name `link` for a piece
        return {
            "name": None,
            "organization": None,
            **values,
            "words": Words(locale, is_for_operator=template in OPERATOR_MAILS),
            "language": locale.language,
            "product": self._brand.product,
            "app_url": self._brand.app_url,
            "for_operator": template in OPERATOR_MAILS,
            "is_optional": template in OPTIONAL_MAILS,
            "unsubscribe_url": unsubscribe_url,
        }


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=autoescape,  # noqa: S701 - off only for text/plain output
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["wrap"] = _wrap
    return environment


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False)
