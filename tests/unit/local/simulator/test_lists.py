"""The pages of the simulated Stripe's lists, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from local.stripe.builder import ApiShape
from local.stripe.simulator.books import Json, StripeEvent
from local.stripe.simulator.company import Company
from local.stripe.simulator.lists import Api, ApiError

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def company() -> Company:
    made = Company(12, 3, 7, NOW)
    made.run()
    assert len(made.stripe.books.events) > 200
    return made


def _pages(api: Api, **query: str) -> Iterator[Json]:
    while True:
        page = api.events(query)
        yield page
        if not page["has_more"]:
            return
        query["starting_after"] = page["data"][-1]["id"]


def _ids(pages: Iterator[Json]) -> list[str]:
    return [event["id"] for page in pages for event in page["data"]]


def test_to_list_all_events_looks_at_each_about_once(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    is_in = StripeEvent.is_in

    def counted(event: StripeEvent, shape: ApiShape) -> bool:
        nonlocal looked
        looked += 1
        return is_in(event, shape)

    monkeypatch.setattr(StripeEvent, "is_in", counted)
    events = company.stripe.books.events
    pages = list(_pages(Api(company.stripe.books, ApiShape.NEW, set())))
    assert _ids(iter(pages)) == [event.id for event in reversed(events)]
    assert len(pages) > 20
    assert looked <= len(events) + 2 * len(pages)  # a page looks at its neighbour and at the first of the next one


def test_more_types_than_stripe_takes_are_refused(company: Company) -> None:
    api = Api(company.stripe.books, ApiShape.NEW, set())
    query = {f"types[{at}]": f"invoice.{at}" for at in range(20)}
    assert api.events(query)["data"] == []
    with pytest.raises(ApiError, match="at most 20"):
        api.events(query | {"types[20]": "invoice.paid"})


@pytest.mark.parametrize("shape", ApiShape)
@pytest.mark.parametrize("types", [(), ("invoice.paid",), ("customer.*", "invoice_payment.*")])
def test_pages_hold_what_is_asked_for(company: Company, shape: ApiShape, types: tuple[str, ...]) -> None:
    events = company.stripe.books.events
    start, end = events[len(events) // 4].created, events[-20].created
    missed = {event.id for event in events[::3]}
    query = {"created[gte]": str(start), "created[lt]": str(end), "delivery_success": "false", "limit": "7"}
    query |= {f"types[{at}]": type_ for at, type_ in enumerate(types)}
    prefixes = tuple(type_.removesuffix("*") for type_ in types) or ("",)
    wanted = [
        event.id
        for event in reversed(events)
        if start <= event.created < end
        and event.id in missed
        and event.is_in(shape)
        and event.type.startswith(prefixes)
    ]
    api = Api(company.stripe.books, shape, missed)
    assert _ids(_pages(api, **query)) == wanted
    if len(wanted) > 5:
        page = api.events(query | {"ending_before": wanted[5], "limit": "3"})
        assert [event["id"] for event in page["data"]] == wanted[2:5]
        assert page["has_more"] is True
        assert api.events(query | {"ending_before": wanted[2], "limit": "3"})["has_more"] is False


@pytest.mark.parametrize(
    ("bound", "fits"),
    [
        ("created", lambda at, limit: at == limit),
        ("created[gt]", lambda at, limit: at > limit),
        ("created[gte]", lambda at, limit: at >= limit),
        ("created[lt]", lambda at, limit: at < limit),
        ("created[lte]", lambda at, limit: at <= limit),
    ],
)  # fmt: skip
def test_each_bound_of_created(company: Company, bound: str, fits: Callable[[int, int], bool]) -> None:
    events = company.stripe.books.events
    limit = events[len(events) // 2].created
    wanted = [event.id for event in reversed(events) if fits(event.created, limit)]
    assert _ids(_pages(Api(company.stripe.books, ApiShape.NEW, set()), **{bound: str(limit)})) == wanted


@pytest.mark.parametrize("name", ["starting_after", "ending_before"])
def test_a_page_begins_only_beside_an_event_that_is_listed(company: Company, name: str) -> None:
    books = company.stripe.books
    api = Api(books, ApiShape.NEW, set())
    other = next(event.id for event in books.events if event.type != "invoice.paid")
    for id_ in ("evt_none", other):
        with pytest.raises(ApiError, match="No such object"):
            api.events({"type": "invoice.paid", name: id_})


def test_an_event_that_was_taken_back_is_not_found() -> None:
    company = Company(1, 1, 1, NOW)
    books = company.stripe.books
    books.emit("customer.created", {"object": "customer", "id": "cus_1"})
    (taken,) = books.events
    books.events.clear()
    assert books.event_place(taken.id) is None
    books.emit("customer.created", {"object": "customer", "id": "cus_2"})
    assert books.event_place(taken.id) is None
    assert books.event_place(books.events[0].id) == 0
