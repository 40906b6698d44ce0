"""Counts the changes of a subscription's price, so that each is mailed once in any order of the events (B3).

The column `price_changes` is `{"seconds": [[second, shown, changed], …], "dropped": …, "price": …}`. For a second,
`changed` lists the pairs (former, new) from its events' previous attributes, and without such pairs `shown` lists the
prices that its events show. Seconds that repeat the price before them are left out. `dropped` and `price` are the
result of seconds that were removed because there were too many.

The count depends on the set of events only. It is the key of the mail about the last change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST = 20
"""Maximum number of seconds. An event from before the oldest one is then left out."""

Second = list[Any]


def with_price(changes: Mapping[str, Any], second: int, price: str, former: str | None) -> dict[str, Any]:
    """The column after an event that shows the price and, by its previous attributes, the one before it."""
    seconds: dict[int, Second] = {at: [at, shown, changed] for at, shown, changed in changes.get("seconds", ())}
    dropped, start = changes.get("dropped", 0), changes.get("price")
    if start is not None and second < min(seconds):
        return dict(changes)
    _, shown, changed = seconds.get(second, [second, [], []])
    is_change = former is not None and former != price
    seconds[second] = [
        second,
        sorted({*shown, price}),
        sorted([*changed, *([[former, price]] if is_change and [former, price] not in changed else [])]),
    ]
    kept: list[Second] = []
    before = start
    for at, (_, prices, pairs) in sorted(seconds.items()):
        entry = [at, [] if pairs else [name for name in prices if name != before], pairs]
        if entry[1] or entry[2]:
            kept.append(entry)
        before = _after(before, entry)[0]
    for entry in kept[:-MOST]:
        start, more = _after(start, entry)
        dropped += more
    return {"seconds": kept[-MOST:], "dropped": dropped, "price": start}


def count(changes: Mapping[str, Any]) -> int:
    """Returns the number of changes so far."""
    price, total = changes.get("price"), changes.get("dropped", 0)
    for entry in changes.get("seconds", ()):
        price, more = _after(price, entry)
        total += more
    return int(total)


def price_before(changes: Mapping[str, Any], second: int) -> str | None:
    """Returns the price before this second; None if it is not known."""
    price: str | None = changes.get("price")
    for entry in changes.get("seconds", ()):
        if entry[0] >= second:
            break
        price = _after(price, entry)[0]
    return price


def _after(before: str | None, entry: Sequence[Any]) -> tuple[str | None, int]:
    """Returns the price at the end of a second, and the number of changes in it."""
    _, shown, changed = entry
    if not changed:
        others = [price for price in shown if price != before]
        missing = 1 if before is None and others else 0
        return (others[-1] if others else before), len(others) - missing
    sources, targets = [pair[0] for pair in changed], [pair[1] for pair in changed]
    first = next((price for price in sources if price not in targets), before if before in sources else sources[0])
    last = next((price for price in targets if price not in sources), first)
    return last, len(changed) + (1 if before is not None and before != first else 0)
