"""Adds to each line of an invoice the price that it bills, so that the figures know what was earned in past months.

Since 2025-03-31 (basil) a line has only the id of its price, without the interval (schemas/stripe/billed_lines.py).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from sinks.stripe_api.api import Refusal
from sinks.stripe_api.listing import Lists

_MOST = 2000
"""Prices in memory. A business has few; the one that was not used for the longest time is dropped."""
_UNKNOWN = (401, 403, 404)
"""A price that was removed, or a key that may not read prices: the line stays as it is."""
_KEPT = (
    *("id", "object", "billing_scheme", "currency", "currency_options", "recurring", "transform_quantity"),
    *("unit_amount", "unit_amount_decimal"),
)


class Prices:
    """Reads each price once."""

    def __init__(self, lists: Lists, account: str) -> None:
        self._lists = lists
        self._account = account
        self._known: OrderedDict[str, dict[str, Any] | None] = OrderedDict()

    async def add_to(self, invoice: dict[str, Any]) -> None:
        """Add the prices to the invoice's lines. Raises ApiTrouble."""
        lines = invoice.get("lines")
        data = lines.get("data") if isinstance(lines, dict) else None
        for line in data if isinstance(data, list) else ():
            if isinstance(line, dict) and line.get("price") is None and (price_id := _price_of(line)) is not None:
                price = await self._price(price_id)
                if price is not None:
                    line["price"] = price

    async def _price(self, price_id: str) -> dict[str, Any] | None:
        if price_id in self._known:
            self._known.move_to_end(price_id)
            return self._known[price_id]
        try:
            found = await self._lists.one(f"/v1/prices/{price_id}", self._account)
        except Refusal as error:
            if error.status not in _UNKNOWN:
                raise
            self._known[price_id] = None
        else:
            self._known[price_id] = {name: found.get(name) for name in _KEPT}
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return self._known[price_id]


def _price_of(line: dict[str, Any]) -> str | None:
    pricing = line.get("pricing")
    details = pricing.get("price_details") if isinstance(pricing, dict) else None
    price = details.get("price") if isinstance(details, dict) else None
    return price if isinstance(price, str) else None
