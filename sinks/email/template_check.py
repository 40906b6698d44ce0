"""Checks a folder of wordings before the first mail: each of its files is rendered with sample data in its language."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from babel import Locale, UnknownLocaleError

from schemas.database_url import is_local
from schemas.errors import BillingError
from schemas.mail import LANGUAGES, MAILS, read_mail
from schemas.settings import Mail as MailConfig
from sinks.email.localize import UnknownCurrency
from sinks.email.rendering import RenderingFailed, Templates, is_read
from sinks.email.samples import SAMPLES

SHARED = frozenset({"layout.html.j2", "layout.txt.j2", "pieces.html.j2", "pieces.txt.j2"})
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_SUFFIX = re.compile(r"(?:\.(?:html|txt))?\.j2$")


class UnusableTemplates(BillingError):
    """A file in `mail.templates` cannot be used. The message is one line that names it."""


def check_templates(config: MailConfig) -> None:
    """Checks `mail.templates`, the folders of plugins and `mail.default_locale`. Raises UnusableTemplates."""
    if config.templates is not None and not config.templates.is_dir():
        raise UnusableTemplates(f"{config.templates} is not a folder")
    if _language_of(config.default_locale) not in config.languages:
        languages = ", ".join(sorted(config.languages))
        raise UnusableTemplates(f"default_locale {config.default_locale}: the languages are {languages}")
    templates = Templates.of(config)
    own_hosts = {urlsplit(url).hostname for url in _own_links(config)}
    for folder in templates.own_folders:
        check_folder(templates, folder, own_hosts)


def check_folder(templates: Templates, folder: Path, own_hosts: Collection[str | None] = ()) -> None:
    """Renders what the folder changes. Raises UnusableTemplates for a file that nothing reads, an unknown variable, a
    fault of syntax, a missing subject, or a link to this machine that the config does not have (`own_hosts`)."""
    names = list(_changed(folder, templates.folders[templates.folders.index(folder) :]))
    for language, template in names:
        for data in _samples(template):
            where = f"{folder}: {language}/{template}"
            try:
                rendered = templates.render(template, read_mail(template, data), [language])
            except (RenderingFailed, UnknownCurrency) as error:
                raise UnusableTemplates(f"{folder}: {error}") from None
            if not rendered.subject:
                raise UnusableTemplates(f"{where}: the block `subject` is missing or empty")
            if not rendered.text.strip():
                raise UnusableTemplates(f"{where}: its plain text is empty")
            for url in _links(rendered.html):
                host = urlsplit(url).hostname or ""
                if is_local(host) and host not in own_hosts:
                    raise UnusableTemplates(f"{where}: {url} is a link to this machine")


def _changed(folder: Path, folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yields language and template of each mail that the folder changes. `folders` are it and those after it.

    Raises UnusableTemplates.
    """
    languages = {file.parent.name for file in folder.glob("*/words.j2")} | LANGUAGES
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        inside = file.relative_to(folder).parts
        if inside in {(name,) for name in SHARED}:
            yield from ((language, template) for language in sorted(languages) for template in sorted(MAILS))
            continue
        name = _SUFFIX.sub("", inside[-1])
        if len(inside) != 2 or not _LANGUAGE.fullmatch(inside[0]) or not inside[-1].endswith(".j2"):
            raise UnusableTemplates(f"{file}: expected LANGUAGE/MAIL.j2, or one of {', '.join(sorted(SHARED))}")
        if _language_of(inside[0]) != inside[0]:
            raise UnusableTemplates(f"{folder / inside[0]}: {inside[0]} is no language (ISO 639: en, nl)")
        if inside[0] not in languages:
            raise UnusableTemplates(f"{folder / inside[0]}: a new language needs words.j2 (copy that of en)")
        if inside[-1] == "words.j2":
            yield from ((inside[0], template) for template in sorted(MAILS))
        elif name not in MAILS:
            raise UnusableTemplates(f"{file}: no such mail; the mails are {', '.join(sorted(MAILS))}")
        elif not is_read(folders, f"{inside[0]}/{name}", inside[-1]):
            raise UnusableTemplates(f"{file}: nothing reads it: a mail is NAME.j2, or NAME.html.j2 with NAME.txt.j2")
        else:
            yield inside[0], name


def _language_of(name: str) -> str | None:
    """Returns the language of a locale as customers' locales are read, None if there is no such locale."""
    try:
        return Locale.parse(name.replace("-", "_")).language
    except (UnknownLocaleError, ValueError):
        return None


def _samples(template: str) -> Iterator[Mapping[str, Any]]:
    """Yields data with every field, and with the required ones only."""
    yield SAMPLES[template]
    fields = MAILS[template].model_fields
    yield {name: value for name, value in SAMPLES[template].items() if fields[name].is_required()}


def _own_links(config: MailConfig) -> list[str]:
    found = [config.app_url, config.update_payment_url, config.survey_url, config.return_url, config.brand.logo_url]
    return [url for url in found if url is not None]


class _LinkReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # HTMLParser's name
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def _links(html: str) -> list[str]:
    reader = _LinkReader()
    reader.feed(html)
    return reader.found
