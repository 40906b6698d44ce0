"""Formats values for pages: money, times, durations, numbers, and links for ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import orjson
from markupsafe import Markup, escape

from schemas.json_text import dumped
from sinks.email.localize import UnknownCurrency, exponent

NONE = "\N{EN DASH}"
"""What a page shows for a value that is missing or not known."""

_NOTHING = Markup('<span class="none">\N{EN DASH}</span>')

_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)$")
_AMOUNTS = frozenset({"amount", "amount_remaining", "refunded_amount", "unit_amount"})

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_YEAR_S, _YEARS_FROM_S = 31_557_600, 2 * 31_557_600

OUTCOMES = {
    "applied": ("ok", "✓"),
    "ignored": ("quiet", "○"),
    "stale": ("quiet", "↷"),
    "waiting": ("wait", "◔"),
    "dead": ("bad", "✕"),
}
_STATES = OUTCOMES | {
    **dict.fromkeys(("sent", "done", "paid", "succeeded", "resolved", "active", "recovered", "won"), ("ok", "✓")),
    **dict.fromkeys(
        ("queued", "sending", "calling", "working", "pending", "trialing", "running", "open"), ("wait", "◔")
    ),
    **dict.fromkeys(
        (
            "failed",
            "lost",
            "unpaid",
            "past_due",
            "canceled",
            "incomplete",
            "uncollectible",
            "needs_response",
            "refused",
        ),
        ("bad", "✕"),
    ),
    **dict.fromkeys(("replayed", "paused", "retried", "fired"), ("info", "↻")),
}
"""Class of the colour and sign of each state. The word is always shown too."""


def money(amount: int | None, currency: str | None) -> str:
    """Returns an amount in minor units as text: `EUR 1,240.00`. An unknown currency shows the minor units."""
    if amount is None:
        return NONE
    if not currency:
        return f"{amount:,} (minor units)"
    try:
        decimals = exponent(currency)
    except UnknownCurrency:
        return f"{amount:,} {currency} (minor units)"
    return f"{currency.upper()}\u00a0{Decimal(amount).scaleb(-decimals):,.{decimals}f}"


def figure(amount: int | None, currency: str) -> str:
    """Returns an amount in minor units as `money` does, without the currency: for a table that names it."""
    return money(amount, currency).removeprefix(f"{currency.upper()}\u00a0")


def duration(seconds: float | timedelta | None) -> str:
    """Returns seconds as text with the two largest units: `3 d 4 h`."""
    if seconds is None:
        return NONE
    left = int(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    if left <= 0:
        return "0 s"
    parts = []
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size}\u00a0{unit}")
            left %= size
        if len(parts) == 2:
            break
    return " ".join(parts)


def relative(at: datetime, now: datetime) -> str:
    """Returns a time as text relative to now, with one unit: `3 min ago`, `in 2 d`."""
    seconds = (now - at).total_seconds()
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), (1, "s"))
    if abs(seconds) < 1:
        return "now"
    if abs(seconds) >= _YEARS_FROM_S:
        size, unit = _YEAR_S, "y"
    count = int(abs(seconds) // size)
    return f"{count}\u00a0{unit} ago" if seconds > 0 else f"in {count}\u00a0{unit}"


def clock(at: datetime | None) -> str:
    """Returns a time in UTC as text: `2026-11-28 01:40:12`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at is not None else NONE


def when(at: Any, now: datetime) -> Markup:
    """Returns a `<time>` element with the relative time, and the absolute time on hover. Takes ISO text, too."""
    if at is None or at == "":
        return _NOTHING
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            return escape(at)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        at.astimezone(UTC).isoformat(timespec="seconds"), clock(at), relative(at, now)
    )


def utc(at: Any) -> str:
    """Returns a time as text in UTC, with its zone: `2026-11-28 01:40 UTC`. Takes ISO text, too."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at is not None else NONE


def badge(state: str | None) -> Markup:
    """Returns a state as sign and word, so that colour is never the only difference."""
    if not state:
        return _NOTHING
    kind, sign = _STATES.get(state, ("quiet", "·"))
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        kind, sign, state.replace("_", " ")
    )


def url_of(value: str, account: str = "") -> str:
    """Returns the console's page of an id. Ids without a page of their own lead to the search."""
    if value.startswith(("evt_", "tmr_")):
        return f"/events/{quote(value, safe='')}"
    if value.startswith("cus_"):
        return f"/customers/{quote(value, safe='')}" + (f"?account={quote(account, safe='')}" if account else "")
    return f"/search?q={quote(value, safe='')}"


def breaks(value: Any) -> Markup:
    """Returns a text that may be broken after its dots and underscores, such as a type in a narrow column."""
    return Markup(re.sub(r"(?<=[._])(?=\w)", "<wbr>", str(escape(value))))  # noqa: S704  # it is escaped


def link(value: Any, account: str = "") -> Markup:
    """Returns an id as a link to its page."""
    if value is None or value == "":
        return _NOTHING
    return Markup('<a class="id" href="{}">{}</a>').format(url_of(str(value), account), value)


def stripe_url(value: str, *, livemode: bool, account: str = "") -> str | None:
    """Returns the page of an object in Stripe's dashboard, None for objects without one."""
    kinds = {
        "evt": "events", "cus": "customers", "sub": "subscriptions", "in": "invoices", "pi": "payments",
        "ch": "payments", "dp": "disputes", "du": "disputes", "po": "payouts",
    }  # fmt: skip
    kind = kinds.get(value.partition("_")[0])
    if kind is None:
        return None
    parts = ["https://dashboard.stripe.com", *([account] if account else []), *([] if livemode else ["test"])]
    return "/".join([*parts, kind, quote(value, safe="")])


def value(given: Any, name: str, fields: Mapping[str, Any], currency: str | None = None) -> str:
    """Returns a field's value as text. An amount has the row's currency if that changed too, else `currency`."""
    if given is None or given == "":
        return NONE
    if name in _AMOUNTS and isinstance(given, int):
        currencies = [one for one in fields.get("currency") or () if isinstance(one, str)]
        return money(given, currencies[-1] if currencies else currency)
    if isinstance(given, str) and _TIME.match(given):
        return f"{given[:19].replace('T', ' ')} UTC"
    if name.endswith(".at") and isinstance(given, int):
        return clock(datetime.fromtimestamp(given, UTC)) + " UTC"
    if isinstance(given, bool):
        return "yes" if given else "no"
    return pretty_json(given) if isinstance(given, dict | list) else str(given)


def pretty_json(value: Any) -> str:
    """Returns a value as indented JSON. Integers keep every digit."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


_DEEPEST_FOLD = 20
"""Levels of a payload that can be folded; deeper ones are shown with theirs. Browsers limit the depth of a page."""


def folded(text: str) -> Markup:
    """Returns JSON as `jsonb_pretty` writes it, each object and list below the first level in a `<details>` element.

    The text of the result is the text given, in which every line is one value or one bracket.
    """
    parts: list[str] = []
    depth = 0
    for line in text.split("\n"):  # other line ends may be in a value
        bare = line.strip()
        if bare[:1] in ("}", "]"):
            depth -= 1
            parts.append(f"{escape(line)}\n" + ("</details>" if 0 < depth <= _DEEPEST_FOLD else ""))
        elif bare[-1:] in ("{", "["):
            is_fold = 0 < depth <= _DEEPEST_FOLD
            parts.append(f"<details open><summary>{escape(line)}\n</summary>" if is_fold else f"{escape(line)}\n")
            depth += 1
        else:
            parts.append(f"{escape(line)}\n")
    return Markup("".join(parts))  # noqa: S704  # each line is escaped


def as_json(value: Any) -> bytes:
    """Returns the JSON answer of a page. Values that JSON does not have are written as text."""
    return dumped(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    from console.reads import PanelFailure

    if isinstance(value, PanelFailure):
        return {"error": value.error}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
