"""The table `mail` of the config: sender, recipients and links of mails."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from schemas.database_url import is_local
from schemas.mail import LANGUAGES, MAILS, Link

_LINKS = ("app_url", "update_payment_url", "survey_url", "return_url")


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

    @field_validator("default_locale")
    @classmethod
    def _has_templates(cls, locale: str) -> str:
        if locale.replace("_", "-").partition("-")[0].lower() not in LANGUAGES:
            raise ValueError(f"{locale} has no templates: the languages are {', '.join(sorted(LANGUAGES))}")
        return locale

    @property
    def local_links(self) -> list[str]:
        """The keys of the links that lead to this machine."""
        return [f"mail.{name}" for name in _LINKS if is_local(urlsplit(getattr(self, name)).hostname or "")]
