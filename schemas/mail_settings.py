"""The table `mail` of the config: sender, recipients and links of mails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic import model_validator as model_check

from schemas.database_url import is_local
from schemas.mail import LANGUAGES, MAILS, Link, one_line

_LINKS = ("app_url", "update_payment_url", "survey_url", "return_url")
_MOST_LINES = 8


def _lines(text: str) -> str:
    """Removes control characters and empty lines. Raises ValueError for more lines than a footer has."""
    found = [line for line in map(one_line, text.splitlines()) if line]
    if len(found) > _MOST_LINES:
        raise ValueError(f"more than {_MOST_LINES} lines")
    return "\n".join(found)


Lines = Annotated[str, AfterValidator(_lines), Field(max_length=1000)]
"""A few lines of text."""


class MailLook(BaseModel):
    """How mails look: logo, colour, and the lines below each of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logo_url: Link | None = None
    """An image (PNG or JPEG; many mail programs show no SVG), instead of the product's name at the top."""
    logo_width: int = Field(140, ge=16, le=480)
    """Pixels."""
    accent: str = Field("#1d4ed8", pattern=r"^#[0-9a-fA-F]{6}$")
    """The colour of buttons and links. The text on a button is white or black, whichever is easier to read."""
    address: Lines = ""
    """The postal address and other facts that the law asks for, in several lines."""
    footer: Lines = ""
    """Further lines below each mail."""


class Mail(BaseModel):
    """Sender, recipients and links of mails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: str = "Billing <billing@localhost>"
    operator: str = "billing-operators@localhost"
    reply_to: str | None = None
    """Address for replies, by default `sender`."""
    product: str = "Your SaaS"
    app_url: Link = "http://127.0.0.1:8080"
    export_link_days: int = Field(7, ge=1, le=365)
    """Days for which the link to an export is valid, from the time its mail is sent."""
    update_payment_url: Link = "http://127.0.0.1:8080/billing/update-payment"
    survey_url: Link = "http://127.0.0.1:8080/billing/survey"
    return_url: Link = "http://127.0.0.1:8080/billing/plans"
    default_locale: str = "en"
    not_before: AwareDatetime | None = None
    """No mail is sent because of an event from before this time (with a time zone)."""
    send_test_mode: bool = False
    """Whether mails of test-mode events are sent: test data may contain addresses of real people."""
    brand: MailLook = MailLook()
    templates: Path | None = None
    """A folder with wordings and languages of one's own (docs/mails.md), relative to the config's folder."""
    customer_portal: bool = False
    """Whether "update payment method" leads to Stripe's customer portal, through a signed link at the gateway, and not
    to `update_payment_url`."""
    portal_link_days: int = Field(30, ge=1, le=365)
    """Days for which such a link is valid, from the time its mail is sent."""
    portal_configuration: str | None = Field(None, pattern=r"^bpc_[A-Za-z0-9]+$")
    """The portal's configuration at Stripe; by default the account's."""
    stripe_hosts: tuple[str, ...] = ()
    """Hosts of Stripe's pages in addition to stripe.com, for a custom domain. Links to others are left out of mails."""

    off: tuple[str, ...] = ()
    """Templates whose mails are not sent, for example because Stripe sends them. They are withheld with that reason."""

    @field_validator("off")
    @classmethod
    def _are_templates(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(MAILS)):
            raise ValueError(f"no such mail: {', '.join(unknown)}; the mails are {', '.join(sorted(MAILS))}")
        return names

    @field_validator("templates")
    @classmethod
    def _beside_the_config(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        """Only processes that compose mails need the folder, so they check it (sinks/email/template_check.py)."""
        return None if path is None else Path((info.context or {}).get("folder", Path()) / path)

    @model_check(mode="after")
    def _default_has_templates(self) -> Mail:
        language = self.default_locale.replace("_", "-").partition("-")[0].lower()
        if self.templates is None and language not in LANGUAGES:
            languages = ", ".join(sorted(LANGUAGES))
            raise ValueError(f"default_locale: {self.default_locale} has no templates: the languages are {languages}")
        return self

    @property
    def languages(self) -> frozenset[str]:
        """The languages that have templates: the built-in ones and those of `templates`."""
        if self.templates is None:
            return LANGUAGES
        return LANGUAGES | {file.parent.name for file in self.templates.glob("*/words.j2")}

    @property
    def local_links(self) -> list[str]:
        """The keys of the links that lead to this machine."""
        names = [name for name in _LINKS if not (self.customer_portal and name == "update_payment_url")]
        found = [f"mail.{name}" for name in names if _is_local(getattr(self, name))]
        if self.brand.logo_url is not None and _is_local(self.brand.logo_url):
            found.append("mail.brand.logo_url")
        return found


def _is_local(url: str) -> bool:
    return is_local(urlsplit(url).hostname or "")
