"""The answers of Stripe's API: lists with filters and pages, single objects, and the few writes that are simulated."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import orjson

from local.stripe.builder import ApiShape
from local.stripe.simulator.books import Books, Json, StripeEvent, listing
from local.stripe.simulator.customers import set_default
from local.stripe.simulator.discounts import COUPONS
from local.stripe.simulator.prices import PRICES, shown
from local.stripe.simulator.render import rendered
from schemas.errors import BillingError

RESOURCES = {
    "charges": "charge",
    "credit_notes": "credit_note",
    "customers": "customer",
    "disputes": "dispute",
    "invoice_payments": "invoice_payment",
    "invoices": "invoice",
    "payment_intents": "payment_intent",
    "payment_methods": "payment_method",
    "refunds": "refund",
    "subscription_schedules": "subscription_schedule",
    "subscriptions": "subscription",
}
"""The name in the path → `object`."""

MOST = 100
MOST_TYPES = 20
DEFAULT_LIMIT = 10
_NEVER = 2**62
_PARAMETER = re.compile(r"(\w+)\[(\w*)\]")


class ApiError(BillingError):
    """An answer that is an error, as Stripe words it."""

    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": "invalid_request_error", "code": code, "message": message, **more}}


class Api:
    """Answers for one account. `undelivered`: the ids of the events that no endpoint took."""

    def __init__(self, books: Books, shape: ApiShape, undelivered: set[str]) -> None:
        self._books = books
        self._shape = shape
        self._undelivered = undelivered

    def events(self, query: Mapping[str, str]) -> Json:
        """`type`, `types[]`, `created[…]`, `delivery_success`."""
        created = _Created(query)
        types = [value for name, value in query.items() if name == "type" or name.startswith("types[")]
        if len(types) > MOST_TYPES:
            raise ApiError(400, f"Invalid array: types may have at most {MOST_TYPES} values", param="types")
        success = query.get("delivery_success")

        def is_asked(event: StripeEvent) -> bool:
            return (
                event.is_in(self._shape)
                and created.fits(event.created)
                and (not types or any(_is_type(event, type_) for type_ in types))
                and (success is None or (event.id not in self._undelivered) is (success == "true"))
            )

        limit = _limit(query)
        all_, first, last = self._books.events, *self._between(query, is_asked)
        places = range(first, last)
        # Newest first; of one second the later one first, as they were emitted. Only what a page needs is looked at.
        is_upwards = "ending_before" in query
        fitting = (at for at in (places if is_upwards else reversed(places)) if is_asked(all_[at]))
        found = list(islice(fitting, limit + 1))
        page = found[:limit][::-1] if is_upwards else found[:limit]
        return {
            "object": "list", "data": [self._event(all_[at]) for at in page], "has_more": len(found) > limit,
            "url": "/v1/events",
        }  # fmt: skip

    def _between(self, query: Mapping[str, str], is_asked: Callable[[StripeEvent], bool]) -> tuple[int, int]:
        """The places of the events, first and end, among which a page begins: by time and by its neighbour."""
        events, created = self._books.events, _Created(query)
        first = bisect_left(events, created.earliest, key=_created)
        last = bisect_right(events, created.latest, key=_created)
        for name in ("starting_after", "ending_before"):
            if name not in query:
                continue
            at = self._books.event_place(query[name])
            if at is None or not is_asked(events[at]):
                raise _no_such(query[name], name)
            if name == "starting_after":
                last = at
            else:
                first = at + 1
        return first, last

    def event(self, id_: str) -> Json:
        at = self._books.event_place(id_)
        if at is None:
            raise _missing("event", id_)
        return self._event(self._books.events[at])

    def _event(self, event: StripeEvent) -> Json:
        """An account that asks in its own name is not shown its name."""
        shown = event.render(self._shape)
        shown.pop("account", None)
        return shown

    def list(self, resource: str, query: Mapping[str, str]) -> Json:
        kind = RESOURCES.get(resource)
        if resource == "prices":
            return _page(list(PRICES), lambda at: shown(list(PRICES.values())[at]), query, "/v1/prices")
        if resource == "coupons":
            return _page(list(COUPONS), lambda at: list(COUPONS.values())[at], query, "/v1/coupons")
        if kind is None:
            raise ApiError(404, f"Unrecognized request URL (GET: /v1/{resource}).")
        created = _Created(query)
        found = [one for one in self._books.all(kind) if created.fits(one.get("created", 0))]
        found = [one for one in found if _is_listed(kind, one, query)]
        for name in ("customer", "charge", "payment_intent", "subscription", "invoice"):
            if name in query:
                own = "_subscription" if (kind, name) == ("invoice", "subscription") else name
                found = [one for one in found if one.get(own) == query[name]]
        found.sort(key=lambda one: one.get("created", 0), reverse=True)
        paths = [value.removeprefix("data.") for name, value in query.items() if name.startswith("expand[")]
        parts = self._parts() if "payments" in paths else {}
        return _page(
            [one["id"] for one in found],
            lambda at: self._expanded(found[at], paths, parts),
            query,
            f"/v1/{resource}",
        )

    def _parts(self) -> Mapping[str, Sequence[Json]]:
        """The payments of invoices, by invoice."""
        return grouped(self._books.all("invoice_payment"), "invoice")

    def retrieve(self, resource: str, id_: str, query: Mapping[str, str]) -> Json:
        if resource == "prices" and id_ in PRICES:
            return shown(PRICES[id_])
        if resource == "coupons" and id_ in COUPONS:
            return COUPONS[id_]
        found = self._books.objects[RESOURCES[resource]].get(id_) if resource in RESOURCES else None
        if found is None:
            raise _missing(resource.removesuffix("s"), id_)
        if found.get("deleted"):
            return {"id": id_, "object": found["object"], "deleted": True}
        paths = [value for name, value in query.items() if name.startswith("expand[")]
        return self._expanded(found, paths, self._parts() if "payments" in paths else {})

    def post(self, path: str, form: Mapping[str, str]) -> Json:
        """Sets a customer's default payment method, or opens a session of the billing portal."""
        if path == "billing_portal/sessions":
            customer = self._customer(form.get("customer", ""))
            url = f"https://billing.stripe.com/p/session/test_{customer['id']}"
            return {
                "id": self._books.new_id("bps"), "object": "billing_portal.session", "created": self._books.now,
                "customer": customer["id"], "livemode": False, "return_url": form.get("return_url"), "url": url,
            }  # fmt: skip
        resource, _, id_ = path.partition("/")
        if resource != "customers" or "/" in id_:
            raise ApiError(404, f"Unrecognized request URL (POST: /v1/{path}).")
        customer = self._customer(id_)
        chosen = form.get("invoice_settings[default_payment_method]")
        if chosen is not None:
            method = self._books.objects["payment_method"].get(chosen)
            if method is None or method["customer"] != id_:
                raise _missing("PaymentMethod", chosen)
            set_default(self._books, customer, chosen)
        return self._shown(customer)

    def _expanded(self, obj: Json, paths: Sequence[str], parts: Mapping[str, Sequence[Json]]) -> Json:
        """The object with the objects that these paths name, in place of their ids."""
        found = self._shown(obj)
        for path in paths:
            *outer, name = path.split(".")
            if outer[:1] == ["discounts"]:
                found["discounts"] = [self._discount(one) for one in obj["_discounts"]]
                continue
            holder = found
            for step in outer:
                inner = holder.get(step)
                holder = inner if isinstance(inner, dict) else {}
            if path == "payments" and found["object"] == "invoice":
                own = [self._shown(one) for one in parts.get(found["id"], [])]
                holder[name] = listing(own, f"/v1/invoice_payments?invoice={found['id']}")
            elif isinstance(holder.get(name), str) and (named := self._named(holder[name])) is not None:
                holder[name] = self._shown(named)
        return found

    def _named(self, id_: str) -> Json | None:
        return COUPONS.get(id_) or self._books.find(id_)

    def _discount(self, discount: Json) -> Json:
        """A discount with its coupon."""
        shown = self._shown(discount)
        return shown | ({"source": shown["source"] | {"coupon": discount["_coupon"]}} if "source" in shown else {})

    def _customer(self, id_: str) -> Json:
        customer = self._books.objects["customer"].get(id_)
        if customer is None or customer.get("deleted"):
            raise _missing("customer", id_)
        return customer

    def _shown(self, obj: Json) -> Json:
        return rendered(orjson.loads(orjson.dumps(obj)), self._shape)


class _Created:
    """`created` and `created[gt|gte|lt|lte]`, as the earliest and the latest second that fit."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self.earliest, self.latest = 0, _NEVER
        for name, value in query.items():
            found = _PARAMETER.fullmatch(name)
            if name == "created" or (found is not None and found[1] == "created"):
                self._narrow(found[2] if found is not None else "", int(value))

    def fits(self, moment: int) -> bool:
        return self.earliest <= moment <= self.latest

    def _narrow(self, bound: str, limit: int) -> None:
        if bound not in ("lt", "lte"):
            self.earliest = max(self.earliest, limit + (bound == "gt"))
        if bound not in ("gt", "gte"):
            self.latest = min(self.latest, limit - (bound == "lt"))


def _created(event: StripeEvent) -> int:
    return event.created


def _is_type(event: StripeEvent, asked: str) -> bool:
    return event.type == asked or (asked.endswith(".*") and event.type.startswith(asked[:-1]))


def _is_listed(kind: str, one: Json, query: Mapping[str, str]) -> bool:
    status = query.get("status")
    if one.get("deleted"):
        return False
    if kind == "subscription":
        # By default Stripe leaves out what is canceled; `all` means every status.
        return (
            one["status"] == status if status not in (None, "all") else status == "all" or one["status"] != "canceled"
        )
    return status is None or one.get("status") == status


def _page(ids: list[str], show: Callable[[int], Json], query: Mapping[str, str], url: str) -> Json:
    """`limit`, `starting_after` and `ending_before` over a list that is newest first."""
    limit = _limit(query)
    start, end = 0, len(ids)
    for name in ("starting_after", "ending_before"):
        if name in query and query[name] not in ids:
            raise _no_such(query[name], name)
    if "ending_before" in query:
        end = ids.index(query["ending_before"])
        start, has_more = max(0, end - limit), end > limit
    else:
        if "starting_after" in query:
            start = ids.index(query["starting_after"]) + 1
        end, has_more = min(len(ids), start + limit), len(ids) > start + limit
    return {"object": "list", "data": [show(at) for at in range(start, end)], "has_more": has_more, "url": url}


def _limit(query: Mapping[str, str]) -> int:
    limit = int(query.get("limit", DEFAULT_LIMIT))
    if not 1 <= limit <= MOST:
        raise ApiError(400, f"Invalid limit: must be between 1 and {MOST}", param="limit")
    return limit


def _no_such(id_: str, parameter: str) -> ApiError:
    return ApiError(400, f"No such object: '{id_}'", "resource_missing", param=parameter)


def grouped(objects: Iterable[Json], name: str) -> Mapping[str, Sequence[Json]]:
    """The objects by the value of one of their fields."""
    found: dict[str, list[Json]] = defaultdict(list)
    for one in objects:
        found[one[name]].append(one)
    return found


def _missing(kind: str, id_: str) -> ApiError:
    return ApiError(404, f"No such {kind}: '{id_}'", "resource_missing", param="id")
