"""The estimate of what is left of an import: by the time that a list covers, which Stripe sorts by creation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from recovery.imports.estimate import Estimate, oldest
from sinks.stripe_api.listing import Listed, ListPage, Lists

NOW = 1_790_000_000
DAY = 86_400
AS_OF = datetime.fromtimestamp(NOW, UTC)


def page(*created: int, more: bool = True) -> ListPage:
    items = [Listed({"id": f"cus_{at}", "created": at}, "") for at in created]
    return ListPage(items, more, AS_OF, None, None)


def test_the_number_follows_from_the_time_that_was_read() -> None:
    """A hundred customers in the newest quarter of the time: about 400."""
    first = page(NOW, NOW - 25 * DAY)
    estimate = Estimate.of(NOW - 100 * DAY, first)
    assert estimate.about(100) is None
    estimate.add(first)
    assert estimate.about(100) == 400
    estimate.add(page(NOW - 26 * DAY, NOW - 50 * DAY))
    assert estimate.about(300) == 600
    assert estimate.left_s() == 0  # no time has passed


def test_what_is_older_than_estimated_ends_the_estimate() -> None:
    estimate = Estimate.of(NOW - 10 * DAY, page(NOW, NOW - 9 * DAY))
    estimate.add(page(NOW - 12 * DAY, NOW - 20 * DAY))
    assert (estimate.done, estimate.about(500)) == (1.0, 500)


class Older:
    """Answers whether something was created before a time, as Stripe's list with `limit=1` does."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.asked = 0

    async def page(self, _path: str, params: Mapping[str, Any], _account: str, *, limit: int) -> ListPage:
        self.asked += 1
        assert (limit, params["status"]) == (1, "all")
        return page(self.first) if self.first < params["created"]["lt"] else page()


@pytest.mark.parametrize("age_days", [1, 30, 400, 3000, 5600])
async def test_the_oldest_object_is_found_with_few_requests(age_days: int) -> None:
    server = Older(NOW - age_days * DAY)
    found = await oldest(cast("Lists", server), "/v1/subscriptions", {"status": "all", "expand": ["x"]}, "", AS_OF)
    assert server.asked == 8
    assert abs(found - server.first) < 25 * DAY
