"""Renders a mail: takes template name, data and locale; returns subject, HTML and plain text.

Each mail is written once per language, from pieces (paragraph, facts, button) that exist in HTML and in plain text, so
both versions have the same content. A language is a folder under templates/. The team's own folder (`mail.templates`)
comes first, then those of plugins, then the built-in one. A mail can also be NAME.html.j2, plain HTML: its text is
NAME.txt.j2, or made from the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

from babel import Locale
from jinja2 import BytecodeCache, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.bccache import Bucket

from schemas.errors import BillingError
from schemas.mail import MAILS, OPERATOR_MAILS, OPTIONAL_MAILS, MailData, UnknownTemplate, one_line
from schemas.mail_settings import MailLook
from schemas.plugin_registry import installed
from schemas.settings import Mail as MailConfig
from sinks.email.localize import Words, choose_locale
from sinks.email.mime import quoted_printable
from sinks.email.plain_text import plain_text
from sinks.email.skeletons import (
    EncodedLines,
    NotPlain,
    Shape,
    Slots,
    SlotValues,
    WordingEnvironment,
    filling,
    shape_of,
    shown_fields,
    slotted,
)

BUILT_IN = Path(__file__).parent / "templates"
_COLUMNS = 72
_MOST_COMPILED = 1000
"""Files. The built-in ones are a tenth of it."""
_BLANK_LINES = re.compile(r"\n{3,}")
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a wording can raise for data that it does not expect."""
_SKELETONS = 2000
"""Shapes of mails that are kept, each of about 10 kB. Numbers are part of a shape, so there is no end of them."""
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
    _html_lines: bytes | None = field(default=None, compare=False, repr=False)
    _text_lines: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def encoded_html(self) -> bytes:
        """The HTML in quoted-printable lines."""
        return quoted_printable(self.html) if self._html_lines is None else self._html_lines

    @property
    def encoded_text(self) -> bytes:
        """The plain text in quoted-printable lines."""
        return quoted_printable(self.text) if self._text_lines is None else self._text_lines


class Skeleton:
    """A mail with slots for the values in which the mails of its shape differ."""

    def __init__(self, rendered: Rendered, slots: Slots) -> None:
        """Raises NotPlain."""
        self._subject, self._text = slots.parts(rendered.subject), slots.parts(rendered.text)
        self._html = slots.parts(rendered.html, is_html=True)
        self._html_lines, self._text_lines = EncodedLines(self._html), EncodedLines(self._text)

    def filled(self, values: SlotValues, words: Words) -> Rendered:
        """Return the mail of these values. Raises UnknownCurrency."""
        in_html, in_text = self._html.texts(values, words), self._text.texts(values, words)
        return Rendered(
            self._subject.filled(values, words),
            self._html.joined(in_html),
            self._text.joined(in_text),
            self._html_lines.filled(in_html),
            self._text_lines.filled(in_text),
        )


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
        self._skeletons: dict[tuple[str, str, Shape], Skeleton | None] = {}

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
        extra = {"unsubscribe_url": unsubscribe_url}
        if (skeleton := self._skeleton(template, data, locale, extra)) is not None:
            words = Words(locale, is_for_operator=template in OPERATOR_MAILS)
            return skeleton.filled(filling(data, extra), words)
        # Field by field, not model_dump(): `words.money` wants Money, not a dict.
        values = {name: getattr(data, name) for name in shown_fields(type(data))} | extra
        return self._rendered(template, locale, values)

    def _skeleton(
        self, template: str, data: MailData, locale: Locale, extra: Mapping[str, str | None]
    ) -> Skeleton | None:
        """Return the mail with slots, None if a slot would change it. Made once for each shape."""
        shape = shape_of(data, extra) if self._text.is_plain and self._html.is_plain else None
        if shape is None:
            return None
        key = (template, str(locale), shape)
        if key not in self._skeletons:
            if len(self._skeletons) >= _SKELETONS:
                self._skeletons.clear()
            slots = self._text.slots = self._html.slots = Slots(
                Words(locale, is_for_operator=template in OPERATOR_MAILS)
            )
            try:
                rendered = self._rendered(template, locale, slotted(slots, data, extra, shape) | {"words": slots.words})
                is_plain = self._text.is_plain and self._html.is_plain
                self._skeletons[key] = Skeleton(rendered, slots) if is_plain else None
            except (NotPlain, *_FAULTS):  # a fault of the wording itself is found again without slots
                self._skeletons[key] = None
            finally:
                self._text.slots = self._html.slots = None
        return self._skeletons[key]

    def _rendered(self, template: str, locale: Locale, fields: Mapping[str, object]) -> Rendered:
        values = self._values(template, fields, locale)
        name = f"{locale.language}/{template}"
        both, html_file, text_file = f"{name}.j2", f"{name}.html.j2", f"{name}.txt.j2"
        is_html = self._place(html_file) < self._place(both)
        source = self._text.get_template(html_file if is_html else both)
        heading = "".join(source.blocks.get("subject", _nothing)(source.new_context(values)))
        subject = values["subject"] = self._text.changed(heading, one_line)
        # The heading keeps its no-break spaces, so an amount and its currency stay on one line; the Subject header
        # gets plain spaces.
        values["heading"] = self._text.changed(heading, _with_no_break_spaces)
        in_text = values | {"layout": "layout.txt.j2", "pieces": "pieces.txt.j2"}
        in_html = values | {"layout": "layout.html.j2", "pieces": "pieces.html.j2"}
        html = self._html.get_template(html_file if is_html else both).render(in_html)
        if not is_html:
            text = source.render(in_text)
        elif self._place(text_file) < len(self.folders):
            text = self._text.get_template(text_file).render(in_text)
        else:
            text = str(self._text.changed(html, plain_text, is_html=True))
        return Rendered(subject=str(subject), html=html, text=_BLANK_LINES.sub("\n\n", text).strip() + "\n")

    def _place(self, file: str) -> int:
        """The position of the first folder that has the file; the number of folders if none has."""
        if file not in self._places:
            self._places[file] = place_of(self.folders, file)
        return self._places[file]

    def _values(self, template: str, fields: Mapping[str, object], locale: Locale) -> dict[str, object]:
        values = dict(fields)
        if "link" in values:
            values["link_url"] = values.pop("link")  # templates use the name `link` for a piece
        look = self._brand.look
        return {
            "name": None,
            "organization": None,
            "words": Words(locale, is_for_operator=template in OPERATOR_MAILS),
            **values,
            "language": locale.language,
            "product": self._brand.product,
            "app_url": self._brand.app_url,
            "for_operator": template in OPERATOR_MAILS,
            "is_optional": template in OPTIONAL_MAILS,
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
        self._codes: dict[str, tuple[str, CodeType, bool]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code, is_plain = self._codes.get(bucket.key, ("", None, False))
        if checksum == bucket.checksum:
            bucket.code = code
            _wordings(bucket).has_read(is_plain=is_plain)

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is None:
            return
        if len(self._codes) >= _MOST_COMPILED:
            self._codes.clear()
        self._codes[bucket.key] = (bucket.checksum, bucket.code, _wordings(bucket).last_is_plain)


def _wordings(bucket: Bucket) -> WordingEnvironment:
    environment = bucket.environment
    if not isinstance(environment, WordingEnvironment):
        raise TypeError("the cache is only for wordings")
    return environment


_COMPILED = {True: _Compiled(), False: _Compiled()}
"""By whether HTML is escaped: the compiled code differs."""


def _environment(folders: Sequence[Path], *, autoescape: bool) -> WordingEnvironment:
    environment = WordingEnvironment(
        bytecode_cache=_COMPILED[autoescape],
        loader=FileSystemLoader(folders),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.defer("wrap", wrapped)
    for name in ("capitalize", "urlencode"):
        environment.defer(name, environment.filters[name])
    return environment


def _with_no_break_spaces(heading: str) -> str:
    return "\xa0".join(map(one_line, heading.split("\xa0")))


def wrapped(text: str) -> str:
    """Return the text in lines of at most 72 characters. A longer word has a line of its own."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if not line:
            line = word
        elif len(line) + 1 + len(word) <= _COLUMNS:
            line += " " + word
        else:
            lines.append(line)
            line = word
    return "\n".join([*lines, line])
