"""The data of each mail template (`QueueEmail.data`): the contract between the rules and the e-mail sink.

Money is integer minor units with Stripe's currency code in lower case. Times are ISO 8601 in UTC. A field that may be
unknown is None, and the mail then leaves it out. Text that people type (names, plans) is reduced to one line here, so
that templates need not do it. A link that is not http or https is an error.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from schemas.errors import BillingError
from schemas.link_like import looks_like_link
from schemas.plugin_registry import UnusablePlugin, follow

if TYPE_CHECKING:
    from schemas.plugin import Plugin

LONGEST_LINE = 300
"""Characters kept of a name or a title. A longer text is an attack or a mistake."""


class UnknownTemplate(BillingError):
    """There is no mail template of that name."""


_JOINERS = frozenset("\u200c\u200d")
"""Format characters that words in some scripts, and emoji, need. Others are invisible or change the direction."""

_LONGEST_NAME = 80

LANGUAGES = frozenset({"de", "en", "es", "fr", "pt"})
"""The languages that have built-in templates."""


def one_line(text: str) -> str:
    """Removes control and format characters, reduces white space to single spaces, and cuts the text."""
    spaced = text.replace("\xa0", " ")
    if spaced.isprintable():  # then it has no such characters, and no other white space
        return " ".join(spaced.split())[:LONGEST_LINE]
    kept = (
        c if not c.isspace() else " "
        for c in text
        if c.isspace() or c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cs", "Cn", "Cf")
    )
    return " ".join("".join(kept).split())[:LONGEST_LINE]


def _one_line_or_none(text: str | None) -> str | None:
    return (one_line(text) or None) if text is not None else None


def _name_or_none(text: str | None) -> str | None:
    """A name that people choose freely. None if it could carry a message or a link to whoever receives the mail."""
    name = _one_line_or_none(text)
    return None if name is None or len(name) > _LONGEST_NAME or looks_like_link(name) else name


_BRANDS = {
    "amex": "American Express",
    "cartes_bancaires": "Cartes Bancaires",
    "diners": "Diners Club",
    "eftpos_au": "eftpos",
    "jcb": "JCB",
    "unionpay": "UnionPay",
}
"""Stripe's names of brands that do not only lack a capital. `unknown` is one, too."""


def _brand_or_none(text: str | None) -> str | None:
    brand = _one_line_or_none(text)
    if brand is None or brand.lower() == "unknown":
        return None
    return _BRANDS.get(brand, brand[:1].upper() + brand[1:])


def _web_link(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https link")
    if " " in url or "\\" in url or not url.isprintable():  # other white space is not printable
        raise ValueError("a link with white space, control characters or a backslash")
    return url


Line = Annotated[str, AfterValidator(one_line), Field(min_length=1)]
OptionalLine = Annotated[str | None, AfterValidator(_one_line_or_none)]
Name = Annotated[str | None, AfterValidator(_name_or_none)]
"""The name of a customer or an organization."""
CardBrand = Annotated[str | None, AfterValidator(_brand_or_none)]
"""A card's brand, as its owner knows it."""
Link = Annotated[str, AfterValidator(_web_link)]
_CHECKED = Field(exclude=True)
CheckedId = Annotated[OptionalLine, _CHECKED]
CheckedItems = Annotated[tuple[str, ...] | None, _CHECKED]
"""Fields with `exclude` are for the check before sending. Templates do not get them."""
_INTERVALS = ("day", "week", "month", "year")


def _interval_or_none(given: object) -> object:
    return given if given in _INTERVALS else None


Interval = Annotated[Literal["day", "week", "month", "year"] | None, BeforeValidator(_interval_or_none)]
"""Stripe's `price.recurring.interval`. One that the texts do not know is left out, as an unknown one is."""


class Money(BaseModel):
    """Minor units as Stripe counts them (`usd` 1999 is $19.99, `jpy` 1999 is ¥1999)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: int = Field(strict=True)
    currency: str = Field(pattern=r"^[a-z]{3}$")


class MailData(BaseModel):
    """The data of one mail. Unknown fields are errors, so that a rule's test finds a wrong name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CustomerMail(MailData):
    """A mail to a customer. The greeting has the name if it is known."""

    name: Name = None
    organization: Name = None
    """Both names are read again when the mail is sent."""


class SubscriptionWelcome(CustomerMail):
    plan: Line
    interval: Interval = None
    interval_count: int = Field(1, ge=1)
    price: Money | None = None
    """The price of one unit."""
    quantity: int | None = None
    trial_end: AwareDatetime | None = None


class PlanChanged(CustomerMail):
    plan: Line
    previous_plan: OptionalLine = None
    price: Money | None = None
    """The price of one unit."""
    previous_price: Money | None = None
    interval: Interval = None
    interval_count: int = Field(1, ge=1)
    previous_interval: Interval = None
    previous_interval_count: int = Field(1, ge=1)
    quantity: int | None = None
    previous_quantity: int | None = None
    """None if it is not known."""


class SubscriptionCanceled(CustomerMail):
    plan: OptionalLine = None
    canceled_at: AwareDatetime
    access_until: AwareDatetime | None = None
    export_id: OptionalLine = None
    """The id of the export. `export_url` is set from it when the mail is composed."""
    is_export_ready: bool = True
    """Whether the archive exists when the mail is sent."""
    export_url: Link | None = None
    erase_at: AwareDatetime | None = None

    reason: Literal["payment_failed", "payment_disputed", "customer_deleted"] | None = None
    """Why it ended, if the customer did not ask for it: Stripe's `cancellation_details.reason`, or the deletion of the
    customer. None: the customer asked for it, or the reason is not known."""
    update_url: Link | None = None


class TrialEnding(CustomerMail):
    plan: OptionalLine = None
    trial_end: AwareDatetime
    days_left: int = Field(ge=0)
    will_end: bool = False
    """Whether the subscription ends with the trial, so that nothing is charged."""
    after: Literal["charged", "invoiced", "free", "method_missing", "ends", "pauses"] | None = "charged"
    """What follows: `ends` and `pauses` if no payment method is added until then. None: not known, as
    while the collection is paused."""
    price: Money | None = None
    """The price of one unit after the trial."""
    interval: Interval | None = None
    interval_count: int = Field(1, ge=1)
    quantity: int | None = None


class PaymentReceipt(CustomerMail):
    number: OptionalLine = None
    amount: Money
    paid_at: AwareDatetime
    hosted_url: Link | None = None
    pdf_url: Link | None = None
    plan: OptionalLine = None
    tax: Money | None = None
    """The tax in the amount."""


class PaymentProblem(CustomerMail):
    """The data of each dunning mail (behaviours.md C3)."""

    number: OptionalLine = None
    amount: Money
    due_at: AwareDatetime | None = None
    next_attempt_at: AwareDatetime | None = None
    hosted_url: Link | None = None
    update_url: Link
    attempt: int = Field(ge=0)
    reason: OptionalLine = None
    keeps_access: bool = True
    """Whether the invoice is one of a subscription, and the customer still has access when the mail is sent."""
    is_given_up: bool | None = None
    """Whether Stripe has tried again and will not any more. None: by `next_attempt_at`."""
    is_sent: bool = False
    """Whether the customer pays the invoice by hand (`send_invoice`)."""


class PaymentActionRequired(CustomerMail):
    number: OptionalLine = None
    amount: Money
    hosted_url: Link
    subscription_id: CheckedId = None


class InvoiceOverdue(CustomerMail):
    """An invoice that the customer pays by hand is past its due date."""

    number: OptionalLine = None
    amount: Money
    due_at: AwareDatetime | None = None
    hosted_url: Link | None = None
    subscription_id: CheckedId = None


class RenewalReminder(CustomerMail):
    amount: Money
    renews_at: AwareDatetime | None = None
    plan: OptionalLine = None
    is_sent: bool = False
    """Whether the invoice is sent to the customer (`send_invoice`) and not charged."""
    due_at: AwareDatetime | None = None
    is_after_trial: bool = False
    """Whether the subscription is in its trial, so that this is its first payment."""
    has_method: bool = True
    """False: it is known that there is no payment method to charge."""
    subscription_id: CheckedId = None
    billed: CheckedItems = None
    """`price:quantity` of what is billed."""
    announced_at: Annotated[AwareDatetime | None, _CHECKED] = None
    """When Stripe announced the invoice (`created` of the event). None: the mail was queued by an older version."""
    items: CheckedItems = None
    """`price:quantity` of the subscription's items at that time. None: not known."""


class CardExpiring(CustomerMail):
    brand: CardBrand = None
    last4: OptionalLine = None
    exp_month: int = Field(ge=1, le=12)
    exp_year: int = Field(ge=2000, le=9999)
    update_url: Link
    days_left: int | None = Field(None, ge=0)


class PaymentMethodDetached(CustomerMail):
    brand: CardBrand = None
    last4: OptionalLine = None
    type: OptionalLine = None
    """Stripe's type of payment method. None: a card."""
    update_url: Link


class ChurnSurvey(CustomerMail):
    survey_url: Link


class WinBack(CustomerMail):
    plan: OptionalLine = None
    return_url: Link


class OperatorAlert(MailData):
    title: Line
    lines: tuple[Line, ...] = ()
    amount: Money | None = None
    link: Link | None = None


class DisputeNotice(MailData):
    dispute_id: Line
    amount: Money
    reason: OptionalLine = None
    due_at: AwareDatetime | None = None
    customer_id: OptionalLine = None
    payment_intent: OptionalLine = None
    connected_account: OptionalLine = None
    change: Literal["inquiry", "escalated", "deadline"] | None = None
    """An inquiry before a dispute, an inquiry that has become a chargeback, or a new deadline. None: a new dispute."""
    link: Link | None = None


MAILS: dict[str, type[MailData]] = {
    "subscription-welcome": SubscriptionWelcome,
    "plan-changed": PlanChanged,
    "subscription-canceled": SubscriptionCanceled,
    "trial-ending": TrialEnding,
    "trial-reminder": TrialEnding,
    "payment-receipt": PaymentReceipt,
    "payment-failed": PaymentProblem,
    "payment-reminder": PaymentProblem,
    "payment-urgent": PaymentProblem,
    "payment-final": PaymentProblem,
    "payment-action-required": PaymentActionRequired,
    "invoice-overdue": InvoiceOverdue,
    "renewal-reminder": RenewalReminder,
    "card-expiring": CardExpiring,
    "payment-method-detached": PaymentMethodDetached,
    "churn-survey": ChurnSurvey,
    "win-back": WinBack,
    "operator-alert": OperatorAlert,
    "dispute-opened": DisputeNotice,
    "dispute-due": DisputeNotice,
    "dispute-lost": DisputeNotice,
}
"""Template name → the model of its data, also of plugins."""

OPERATOR_MAILS = {"operator-alert", "dispute-opened", "dispute-due", "dispute-lost"}
"""Mails to the team. Without a recipient they go to `mail.operator`, never to the customer."""

DUNNING_MAILS = frozenset(name for name, model in MAILS.items() if model is PaymentProblem)
"""The templates that a step of the dunning sequence can send."""

FACT_MAILS = frozenset({"payment-receipt", "operator-alert", "dispute-opened", "dispute-lost"})
"""Mails that say what has happened, which stays true. Others are checked before sending (sinks/email/checks.py)."""

OPTIONAL_MAILS = {"churn-survey", "win-back"}
"""Mails that are not strictly transactional, so customers can unsubscribe from them."""


_BUILT_IN = dict(MAILS), frozenset(OPERATOR_MAILS), frozenset(OPTIONAL_MAILS)

BUILT_IN_MAILS = frozenset(MAILS)
"""The templates of the project, without those of plugins."""


def _with_plugins(plugins: Sequence[Plugin]) -> None:
    mails, operator, optional = _BUILT_IN
    found = {name: mail for plugin in plugins for name, mail in plugin.mails.items()}
    if twice := sorted(found.keys() & mails.keys()):
        raise UnusablePlugin(f"mail {twice[0]} is one of the project's own")
    for table, names in (
        (OPERATOR_MAILS, operator | {name for name, mail in found.items() if mail.is_for_operator}),
        (OPTIONAL_MAILS, optional | {name for name, mail in found.items() if mail.is_optional}),
    ):
        table.clear()
        table.update(names)
    MAILS.clear()
    MAILS.update(mails | {name: mail.model for name, mail in found.items()})


follow(_with_plugins)


def read_mail(template: str, data: Mapping[str, Any], *, strict: bool = True) -> MailData:
    """Returns the data as its template's model. Raises UnknownTemplate or pydantic's ValidationError.

    `strict=False` ignores unknown fields, because a newer worker may have queued the mail.
    """
    model = MAILS.get(template)
    if model is None:
        raise UnknownTemplate(template)
    return model.model_validate(data, extra="forbid" if strict else "ignore")
