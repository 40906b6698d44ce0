"""The simulator's HTTP side, read with the product's own client: pages, filters, faults, writes, connected accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from local.stripe.builder import ApiShape
from local.stripe.simulator import customers, endings
from local.stripe.simulator.company import Company
from local.stripe.simulator.server import TEST_KEY, Fault, StripeServer
from local.stripe.simulator.subscriptions import create_subscription
from schemas.rate import RateLimit
from schemas.timing import Timetable
from sinks.stripe_api.api import ApiTrouble, Refusal, Request, StripeApi
from sinks.stripe_api.key import parse_key
from sinks.stripe_api.listing import Lists

UNTIL = 1_790_000_000
QUICK = Timetable(first=timedelta(milliseconds=10), factor=1, tries=3)


@pytest.fixture
async def server() -> AsyncIterator[StripeServer]:
    company = Company(12, 6, 3, UNTIL)
    company.run()
    async with StripeServer(company.stripe) as server:
        yield server


@pytest.fixture
async def api(server: StripeServer) -> AsyncIterator[StripeApi]:
    api = StripeApi(parse_key(SecretStr(TEST_KEY)), server.url, total_s=2.0)
    yield api
    await api.close()


@pytest.fixture
def lists(api: StripeApi) -> Lists:
    return Lists(api, RateLimit(1000), timetable=QUICK)


async def _all(
    lists: Lists, path: str, params: dict[str, Any] | None = None, account: str = ""
) -> list[dict[str, Any]]:
    return [item.object async for page in lists.pages(path, params or {}, account) for item in page.items]


async def test_every_event_is_listed_once_newest_first(server: StripeServer, lists: Lists) -> None:
    listed = await _all(lists, "/v1/events")
    assert [event["id"] for event in listed] == [event.id for event in reversed(server.stripe.books.events)]
    assert len(listed) > 200  # several pages


async def test_events_by_type_and_time(server: StripeServer, lists: Lists) -> None:
    middle = UNTIL - 90 * 86_400
    listed = await _all(lists, "/v1/events", {"types": ["invoice.paid"], "created": {"gte": middle, "lt": UNTIL}})
    events = [event for event in server.stripe.books.events if event.type == "invoice.paid" and event.created >= middle]
    assert [event["id"] for event in listed] == [event.id for event in reversed(events)]
    assert listed


async def test_events_that_no_endpoint_took(server: StripeServer, lists: Lists) -> None:
    server.undelivered = {event.id for event in server.stripe.books.events[5:15]}
    listed = await _all(lists, "/v1/events", {"delivery_success": False})
    assert {event["id"] for event in listed} == server.undelivered


async def test_ending_before_is_the_page_before(server: StripeServer, api: StripeApi) -> None:
    ids = [event.id for event in reversed(server.stripe.books.events)]
    answer = await api.call(Request("GET", "/v1/events", "", params={"ending_before": ids[7], "limit": 3}))
    assert [event["id"] for event in answer.body["data"]] == ids[4:7]
    assert answer.body["has_more"] is True


@pytest.mark.parametrize("status", ["all", None, "canceled"])
async def test_canceled_subscriptions_are_listed_on_request(
    server: StripeServer, lists: Lists, status: str | None
) -> None:
    listed = await _all(lists, "/v1/subscriptions", {"status": status} if status else {})
    stored = server.stripe.books.all("subscription")
    asked = {
        "all": stored,
        None: [one for one in stored if one["status"] != "canceled"],
        "canceled": [one for one in stored if one["status"] == "canceled"],
    }[status]
    assert {one["id"] for one in listed} == {one["id"] for one in asked}
    assert not [name for one in listed for name in one if name.startswith("_")]


@pytest.mark.parametrize(
    "resource", ["charges", "customers", "invoices", "payment_intents", "payment_methods", "prices", "refunds"]
)
async def test_each_object_of_a_list_is_found_by_its_id(api: StripeApi, resource: str) -> None:
    listed = (await api.call(Request("GET", f"/v1/{resource}", ""))).body["data"]
    assert listed
    for one in listed:
        assert (await api.call(Request("GET", f"/v1/{resource}/{one['id']}", ""))).body == one


async def test_an_older_version_is_answered_in_its_shape(server: StripeServer, api: StripeApi) -> None:
    server.shape = ApiShape.OLD
    one = (await api.call(Request("GET", "/v1/subscriptions", "", params={"limit": 1}))).body["data"][0]
    assert "current_period_end" in one
    assert not [
        event for event in server.stripe.books.events if event.is_in(ApiShape.OLD) and "invoice_payment" in event.type
    ]


async def test_a_deleted_customer_is_only_its_id(server: StripeServer, api: StripeApi) -> None:
    customer = customers.create_customer(server.stripe.books, email="a@example.com", name=None)
    customers.delete_customer(server.stripe.books, customer, endings.end)
    answer = await api.call(Request("GET", f"/v1/customers/{customer['id']}", ""))
    assert answer.body == {"id": customer["id"], "object": "customer", "deleted": True}


async def test_what_is_not_there_is_404_with_stripes_code(api: StripeApi) -> None:
    with pytest.raises(Refusal) as refused:
        await api.call(Request("GET", "/v1/invoices/in_none", ""))
    assert (refused.value.status, refused.value.code) == (404, "resource_missing")


async def test_the_default_payment_method_is_set_once_per_idempotency_key(server: StripeServer, api: StripeApi) -> None:
    books = server.stripe.books
    customer = customers.create_customer(books, email="a@example.com", name=None)
    card = customers.attach_card(books, customer, default=False)
    params = {"invoice_settings": {"default_payment_method": card["id"]}}
    events = len(books.events)
    for _ in range(2):
        await api.call(Request("POST", f"/v1/customers/{customer['id']}", "", params=params, idempotency_key="k1"))
    assert customer["invoice_settings"]["default_payment_method"] == card["id"]
    assert [event.type for event in books.events[events:]] == ["customer.updated"]


async def test_a_portal_session_has_a_url(server: StripeServer, api: StripeApi) -> None:
    customer = customers.create_customer(server.stripe.books, email="a@example.com", name=None)
    params = {"customer": customer["id"], "return_url": "https://app.example.com"}
    answer = await api.call(Request("POST", "/v1/billing_portal/sessions", "", params=params))
    assert answer.body["url"].startswith("https://")


async def test_a_connected_account_has_its_own_objects(server: StripeServer, lists: Lists) -> None:
    books = server.stripe.open_account("acct_1")
    customer = customers.create_customer(books, email="b@example.com", name=None)
    create_subscription(books, customer, [("price_pro", 1)], collection="send_invoice")
    assert {one["id"] for one in await _all(lists, "/v1/customers", account="acct_1")} == {customer["id"]}
    assert customer["id"] not in {one["id"] for one in await _all(lists, "/v1/customers")}
    assert [one["id"] for one in await _all(lists, "/v1/accounts")] == ["acct_1"]
    assert not [event for event in await _all(lists, "/v1/events", account="acct_1") if "account" in event]
    with pytest.raises(ApiTrouble):
        await _all(lists, "/v1/customers", account="acct_none")


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.DROP, Fault.HANG])
async def test_a_fault_is_one_requests(server: StripeServer, api: StripeApi, fault: Fault) -> None:
    server.faults.extend([fault] * (2 if fault is Fault.DROP else 1))  # aiohttp itself repeats a GET that was dropped
    with pytest.raises(ApiTrouble):
        await api.call(Request("GET", "/v1/customers", ""))
    assert (await api.call(Request("GET", "/v1/customers", ""))).body["object"] == "list"


async def test_a_slow_answer_comes(server: StripeServer, api: StripeApi) -> None:
    server.faults.append(Fault.SLOW)
    assert (await api.call(Request("GET", "/v1/customers", ""))).body["object"] == "list"


async def test_another_key_is_refused(server: StripeServer) -> None:
    other = StripeApi(parse_key(SecretStr("sk_test_51AnotherKeyThatIsNotTheirs")), server.url)
    try:
        with pytest.raises(Refusal) as refused:
            await other.call(Request("GET", "/v1/customers", ""))
        assert refused.value.status == 401
    finally:
        await other.close()


async def test_answers_carry_the_time(server: StripeServer, api: StripeApi) -> None:
    answer = await api.call(Request("GET", "/v1/customers", ""))
    assert abs((answer.as_of - datetime.now(UTC)).total_seconds()) < 5
