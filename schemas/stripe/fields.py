"""Before the rules: the field types that all models of Stripe's objects share, strict where money and identity are.

Unknown fields are ignored, since Stripe adds them at any time. What is read is read strictly: an amount is an int, a
currency is one of ISO 4217's, an id is a non-empty string, a time is whole seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

from babel.numbers import list_currencies
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

_INT64 = 2**63
_LATEST = 253_402_300_799
"""The last second of the year 9999, the end of `datetime`."""


class StripeObject(BaseModel):
    """The fields that rules ask for, in one shape, whichever API version rendered the event."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _expanded(value: object) -> object:
    return value.get("id") if isinstance(value, Mapping) else value


def _moment(value: object) -> datetime:
    if type(value) is not int or not 0 <= value <= _LATEST:
        raise ValueError("not a time in whole seconds since the epoch")
    return datetime.fromtimestamp(value, UTC)


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


def _known_currency(code: str) -> str:
    if not is_currency(code):
        raise ValueError("no currency of ISO 4217 in lower case")
    return code


def is_currency(code: str) -> bool:
    """Whether this is an ISO 4217 code as Stripe writes it: `eur`."""
    return code in _currencies()


@cache
def _currencies() -> frozenset[str]:
    return frozenset(code.lower() for code in list_currencies())


Id = Annotated[str, Field(min_length=1, strict=True)]
ExpandableId = Annotated[Id, BeforeValidator(_expanded)]
"""A field that Stripe sends as the id or, expanded, as the object that has it."""
Moment = Annotated[datetime, PlainValidator(_moment)]
"""UTC."""
Amount = Annotated[int, Field(strict=True, ge=-_INT64, lt=_INT64)]
"""Minor units."""
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Quantity = Annotated[int, Field(strict=True, ge=0, lt=_INT64)]
Currency = Annotated[str, Field(strict=True), AfterValidator(_known_currency)]
Text = Annotated[Annotated[str, Field(strict=True)] | None, BeforeValidator(_blank_is_none)]
"""What people or Stripe wrote, '' read as nothing."""


def child(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under `name`, {} where there is none. Raises ValueError for anything else."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: not an object")  # noqa: TRY004  # pydantic turns only ValueError into its own
    return value


def listed(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects of the list under `name` (`{"data": […]}`), [] where there is none. Raises ValueError."""
    data = child(parent, name).get("data")
    if data is None:
        return []
    if not isinstance(data, list) or not all(isinstance(item, Mapping) for item in data):
        raise ValueError(f"{name}.data: not a list of objects")
    return data


def first(*values: Any) -> Any:
    """The first value that is not None."""
    for value in values:
        if value is not None:
            return value
    return None
