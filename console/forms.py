"""Forms that confirm an action on everything that a filter matches: the number is shown, and typed if it is large."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from console import params
from console.actions import check_key
from console.errors import Refused
from console.web import Context

TYPE_THE_NUMBER_ABOVE = 100


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A confirmed form. `seen_at` is when its number was counted: what is younger was not seen and is left alone."""

    fields: Mapping[str, str]
    key: str
    count: int
    seen_at: datetime

    @property
    def reason(self) -> str | None:
        return params.text(self.fields, "reason") or None


def form_values(count: int, now: datetime) -> dict[str, Any]:
    """Returns what the template `parts.confirmed` needs."""
    return {
        "key": secrets.token_urlsafe(16),
        "count": count,
        "seen_at": now.astimezone(UTC).isoformat(),
        "type_number": count > TYPE_THE_NUMBER_ABOVE,
    }


async def confirmed(context: Context, what: str) -> Confirmed:
    """Returns the form. Raises Refused if a large number was not typed, or the fields are not those of a form."""
    fields = {name: str(value) for name, value in (await context.form()).items()}
    seen_at, count = params.time(fields, "seen_at"), params.text(fields, "count")
    if seen_at is None or not count.isdecimal():
        raise Refused("The form is incomplete: open it again.")
    typed = params.text(fields, "typed").replace(",", "")
    if int(count) > TYPE_THE_NUMBER_ABOVE and typed != count:
        raise Refused(f"Type {count} to confirm that many {what}.")
    return Confirmed(fields, check_key(fields.get("key", "")), int(count), seen_at)
