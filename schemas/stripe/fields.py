"""Field types that all models of Stripe's objects share.

Unknown fields are ignored, because Stripe may add fields at any time. Known fields are parsed strictly: an amount is an
int, a currency is in ISO 4217, an id is a non-empty string, a time is whole seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

from babel.numbers import list_currencies
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

_MAPPING = (dict, Mapping)
"""`dict` comes first: most values are dicts, and the check of an abstract type costs four times as much."""
_INT64 = 2**63
_LATEST = 253_402_300_799
"""The last second of the year 9999, the latest that `datetime` can represent."""


class StripeObject(BaseModel):
    """Base of the models. A model has the fields that rules need, in one shape for all API versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _expanded(value: object) -> object:
    return value.get("id") if isinstance(value, _MAPPING) else value


def _moment(value: object) -> datetime:
    if type(value) is not int or not 0 <= value <= _LATEST:
        raise ValueError("not a time in whole seconds since the epoch")
    return datetime.fromtimestamp(value, UTC)


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


def _known_currency(code: str) -> str:
    if not is_currency(code):
        raise ValueError("not an ISO 4217 currency in lower case")
    return code


def is_currency(code: str) -> bool:
    """Returns whether this is an ISO 4217 code in Stripe's form: `eur`."""
    return code in _currencies()


@cache
def _currencies() -> frozenset[str]:
    return frozenset(code.lower() for code in list_currencies())


Id = Annotated[str, Field(min_length=1, strict=True)]
ExpandableId = Annotated[Id, BeforeValidator(_expanded)]
"""A field that Stripe sends as an id or, if expanded, as the object."""
Moment = Annotated[datetime, PlainValidator(_moment)]
"""UTC."""
Amount = Annotated[int, Field(strict=True, ge=-_INT64, lt=_INT64)]
"""Minor units."""
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Quantity = Annotated[int, Field(strict=True, ge=0, lt=_INT64)]
Currency = Annotated[str, Field(strict=True), AfterValidator(_known_currency)]
AnyCurrency = Annotated[str, Field(strict=True, pattern=r"^[a-z]{3}$")]
"""A currency that may be younger than our list: for what must reach the operator in any currency."""
Text = Annotated[Annotated[str, Field(strict=True)] | None, BeforeValidator(_blank_is_none)]
"""Text that people or Stripe wrote; '' becomes None."""


def child(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns the object under `name`, {} if there is none. Raises ValueError if it is not an object."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, _MAPPING):
        raise ValueError(f"{name}: not an object")  # noqa: TRY004  # pydantic converts only ValueError into a ValidationError
    return value


def listed(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Returns the objects of the list under `name` (`{"data": […]}`), [] if there is none. Raises ValueError."""
    data = child(parent, name).get("data")
    if data is None:
        return []
    if not isinstance(data, list) or not all(isinstance(item, _MAPPING) for item in data):
        raise ValueError(f"{name}.data: not a list of objects")
    return data


def address_of(parent: Mapping[str, Any], name: str = "address") -> dict[str, str]:
    """Returns the parts of a postal address that are present, {} if there is none. Raises ValueError."""
    found = child(parent, name)
    return {part: found[part] for part in _ADDRESS if isinstance(found.get(part), str) and found[part]}


_ADDRESS = ("line1", "line2", "postal_code", "city", "state", "country")


def in_currency(price: Mapping[str, Any], currency: Any) -> Mapping[str, Any]:
    """Returns the part of a price or plan that has its amounts in this currency, {} if the event lacks it.

    A price can have further currencies in `currency_options` (behaviours.md C16). Raises ValueError.
    """
    if currency is None or price.get("currency") in (None, currency):
        return price
    return child(child(price, "currency_options"), currency) if isinstance(currency, str) else {}


def packages_of(price: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `transform_quantity` of a price or `transform_usage` of a plan: `divide_by`, `round`; {} if neither."""
    found = first(price.get("transform_quantity"), price.get("transform_usage"))
    return found if isinstance(found, Mapping) else {}


def first(*values: Any) -> Any:
    """Returns the first value that is not None, or None."""
    for value in values:
        if value is not None:
            return value
    return None
