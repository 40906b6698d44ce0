"""One order for each outbox of the registry, for tests that loop over all outboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from typing import Any, get_origin, get_type_hints

from sinks.postgres.outboxes import OUTBOXES, Origin, Outbox

SECRET = "jane.erasable@example.com"
"""Personal data that each sample contains, where its outbox can hold any."""
AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)

_VALUES: dict[str, Any] = {"account": "", "customer_id": "cus_1", "recipient": SECRET}
"""The values of fields by name. Other fields get a value by their type, or keep their default."""


def _sample(field: Field[Any], hint: Any) -> Any:
    if field.name in _VALUES:
        return _VALUES[field.name]
    if get_origin(hint) is Mapping:
        return {"name": SECRET}
    if field.default is not MISSING:
        return field.default
    return {str: f"sample-{field.name}", datetime: datetime(2099, 1, 1, tzinfo=UTC)}[hint]


def sample_order(outbox: Outbox) -> Any:
    """An order for customer `cus_1`, made from the fields of the outbox's effect."""
    hints = get_type_hints(outbox.effect)
    return outbox.effect(**{field.name: _sample(field, hints[field.name]) for field in fields(outbox.effect)})


def sample_row(outbox: Outbox, event_id: str = "evt_1") -> Any:
    """The row of that order."""
    return outbox.to_row(sample_order(outbox), Origin(event_id, livemode=True), AT)


def sample_rows(event_id: str = "evt_1") -> list[Any]:
    return [sample_row(outbox, event_id) for outbox in OUTBOXES]
