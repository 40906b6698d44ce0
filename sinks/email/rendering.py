"""Renders a mail: takes template name, data and locale; returns subject, HTML and plain text.

Each mail is written once per language, from pieces (paragraph, facts, button) that exist in HTML and in plain text, so
both versions have the same content. A language is a folder under templates/. The team's own folder (`mail.templates`)
comes first, then those of plugins, then the built-in one. A mail can also be NAME.html.j2, plain HTML: its text is
NAME.txt.j2, or made from the HTML.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

from babel import Locale
from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.bccache import Bucket

from schemas.errors import BillingError
from schemas.mail import MAILS, OPERATOR_MAILS, OPTIONAL_MAILS, MailData, UnknownTemplate, one_line
from schemas.mail_settings import MailLook
from schemas.plugin_registry import installed
from schemas.settings import Mail as MailConfig
from sinks.email.localize import Words, choose_locale
from sinks.email.plain_text import plain_text

BUILT_IN = Path(__file__).parent / "templates"
_COLUMNS = 72
_MOST_COMPILED = 1000
"""Files. The built-in ones are a tenth of it."""
_BLANK_LINES = re.compile(r"\n{3,}")
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a wording can raise for data that it does not expect."""
_DARK_TEXT_ABOVE = 0.36
"""The relative luminance above which black text on a colour is easier to read than white."""


class RenderingFailed(BillingError):
    """The wording of a mail cannot be rendered with its data. The message is one line that names the file."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One mail's content. `subject` is one line."""

    subject: str
    html: str
    text: str


@dataclass(frozen=True, slots=True)
class Brand:
    """The product name and address shown in every mail, and its look."""

    product: str
    app_url: str
    look: MailLook = field(default_factory=MailLook)


class Templates:
    """All mails in all languages, compiled on first use. The first of `folders` that has a file is used."""

    def __init__(self, brand: Brand, folders: Sequence[Path] = ()) -> None:
        self._brand = brand
        self.own_folders = tuple(folders)
        self.folders = (*folders, BUILT_IN)
        self._html = _environment(self.folders, autoescape=True)
        self._text = _environment(self.folders, autoescape=False)
        self._languages: dict[str, frozenset[str]] = {}
        self._places: dict[str, int] = {}

    @classmethod
    def of(cls, config: MailConfig) -> Templates:
        """The templates of a config: its own folder and its brand."""
        brand = Brand(config.product, config.app_url, config.brand)
        own = [config.templates] if config.templates is not None else []
        return cls(brand, [*own, *(plugin.templates for plugin in installed() if plugin.templates is not None)])

    def languages_of(self, template: str) -> frozenset[str]:
        """The languages that have this mail, and the words that every mail of the language uses."""
        if template not in self._languages:
            with_words = {file.parent.name for folder in self.folders for file in folder.glob("*/words.j2")}
            files = (f"{template}.j2", f"{template}.html.j2")
            self._languages[template] = frozenset(
                language
                for language in with_words
                if any((folder / language / file).is_file() for folder in self.folders for file in files)
            )
        return self._languages[template]

    def render(
        self, template: str, data: MailData, locales: Iterable[str | None], *, unsubscribe_url: str | None = None
    ) -> Rendered:
        """Render the mail in the first of `locales` that has it, else in English, else in any language that has it.

        Raises UnknownTemplate, UnknownCurrency, RenderingFailed.
        """
        languages = self.languages_of(template)
        if template not in MAILS or not languages:
            raise UnknownTemplate(template)
        locale = choose_locale(locales, languages)
        if locale.language not in languages:
            locale = Locale(min(languages))
        try:
            return self._render(template, data, locale, unsubscribe_url)
        except TemplateSyntaxError as error:
            raise RenderingFailed(f"{error.filename}, line {error.lineno}: {error.message}") from None
        except _FAULTS as error:
            raise RenderingFailed(f"{locale.language}/{template}: {one_line(str(error))}") from None

    def _render(self, template: str, data: MailData, locale: Locale, unsubscribe_url: str | None) -> Rendered:
        values = self._values(template, data, locale, unsubscribe_url)
        name = f"{locale.language}/{template}"
        both, html_file, text_file = f"{name}.j2", f"{name}.html.j2", f"{name}.txt.j2"
        is_html = self._place(html_file) < self._place(both)
        source = self._text.get_template(html_file if is_html else both)
        heading = "".join(source.blocks.get("subject", _nothing)(source.new_context(values)))
        subject = values["subject"] = one_line(heading)
        # The heading keeps its no-break spaces, so an amount and its currency stay on one line; the Subject header
        # gets plain spaces.
        values["heading"] = "\xa0".join(map(one_line, heading.split("\xa0")))
        in_text = values | {"layout": "layout.txt.j2", "pieces": "pieces.txt.j2"}
        in_html = values | {"layout": "layout.html.j2", "pieces": "pieces.html.j2"}
        html = self._html.get_template(html_file if is_html else both).render(in_html)
        if not is_html:
            text = source.render(in_text)
        elif self._place(text_file) < len(self.folders):
            text = self._text.get_template(text_file).render(in_text)
        else:
            text = plain_text(html)
        return Rendered(subject=subject, html=html, text=_BLANK_LINES.sub("\n\n", text).strip() + "\n")

    def _place(self, file: str) -> int:
        """The position of the first folder that has the file; the number of folders if none has."""
        if file not in self._places:
            self._places[file] = place_of(self.folders, file)
        return self._places[file]

    def _values(self, template: str, data: MailData, locale: Locale, unsubscribe_url: str | None) -> dict[str, object]:
        # Field by field, not model_dump(): `words.money` wants Money, not a dict.
        values: dict[str, object] = {field: getattr(data, field) for field in type(data).model_fields}
        if "link" in values:
            values["link_url"] = values.pop("link")  # templates use the name `link` for a piece
        look = self._brand.look
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
            "logo_url": look.logo_url,
            "logo_width": look.logo_width,
            "accent": look.accent,
            "on_accent": readable_on(look.accent),
            "footer_lines": [*look.address.splitlines(), *look.footer.splitlines()],
        }


def place_of(folders: Sequence[Path], file: str) -> int:
    """Returns the position of the first folder that has the file; the number of folders if none has."""
    return next((at for at, folder in enumerate(folders) if (folder / file).is_file()), len(folders))


def is_plain_html(folders: Sequence[Path], name: str) -> bool:
    """Whether the mail `LANGUAGE/NAME` is rendered from its NAME.html.j2."""
    return place_of(folders, f"{name}.html.j2") < place_of(folders, f"{name}.j2")


def is_read(folders: Sequence[Path], name: str, file: str) -> bool:
    """Whether this file of the first folder is used for the mail `LANGUAGE/NAME`."""
    return is_plain_html(folders, name) == file.endswith((".html.j2", ".txt.j2"))


def _nothing(_: object) -> Iterator[str]:
    """The block of a wording that has none."""
    return iter(())


def readable_on(colour: str) -> str:
    """White or black, whichever has more contrast on `#rrggbb` (WCAG's relative luminance)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111827" if luminance > _DARK_TEXT_ABOVE else "#ffffff"


class _Compiled(BytecodeCache):
    """The compiled files of every `Templates` of this process. A file with another content is compiled again."""

    def __init__(self) -> None:
        self._codes: dict[str, tuple[str, CodeType]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code = self._codes.get(bucket.key, ("", None))
        if checksum == bucket.checksum:
            bucket.code = code

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is None:
            return
        if len(self._codes) >= _MOST_COMPILED:
            self._codes.clear()
        self._codes[bucket.key] = (bucket.checksum, bucket.code)


_COMPILED = {True: _Compiled(), False: _Compiled()}
"""By whether HTML is escaped: the compiled code differs."""


def _environment(folders: Sequence[Path], *, autoescape: bool) -> Environment:
    environment = Environment(
        bytecode_cache=_COMPILED[autoescape],
        loader=FileSystemLoader(folders),
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
