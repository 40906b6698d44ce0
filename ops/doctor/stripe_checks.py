"""Checks of Stripe: the key and its rights, prices of the plans, and the webhook endpoints with their event types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from analytics.facts import TELLERS
from gateway.endpoints import DEFAULT
from ops.doctor.findings import CheckResult, Situation, failed, ok, skipped, warning
from schemas.plugin_registry import own_event_types
from schemas.settings import Config
from sinks.stripe_api.api import Refusal, Request, StripeApi
from sinks.stripe_api.key import parse_base, parse_key
from streams.rules.catalog import RULES

READ = {
    "/v1/customers": "Customers",
    "/v1/subscriptions": "Subscriptions",
    "/v1/invoices": "Invoices",
    "/v1/charges": "Charges and Refunds",
    "/v1/disputes": "Disputes",
    "/v1/events": "Events",
    "/v1/prices": "Prices",
    "/v1/coupons": "Coupons",
    "/v1/payment_methods": "Payment Methods",
    "/v1/webhook_endpoints": "Webhook Endpoints",
}
"""The lists that reconcile, import, audit and this check read, and the names of the rights in Stripe's dashboard."""

_MOST_SKEW_S = 60.0
_MOST_PAGES = 20
_OURS = ("timer.", "plans.", "erasure.")
NO_KEY = "BILLING_STRIPE_API_KEY is not set"
KEY_REMEDY = "set it: without it there is no reconciliation, no audit, no import, and no address for some mails"


def event_types() -> list[str]:
    """Returns the types of Stripe's events that a rule applies or a figure counts: what an endpoint has to send."""
    return sorted(type_ for type_ in (RULES.keys() | TELLERS.keys()) - own_event_types() if not type_.startswith(_OURS))


async def check_stripe(situation: Situation) -> Sequence[CheckResult]:
    settings, config = situation.settings, situation.config
    if settings.stripe_api_key is None:
        return [skipped(NO_KEY, KEY_REMEDY)]
    key = parse_key(settings.stripe_api_key, mode=config.mode)
    api = StripeApi(key, parse_base(settings.stripe_api_base), total_s=10.0)
    try:
        found, lists = await _rights(api)
        return [*found, *await _prices(api, config, lists), *await _endpoints(api, situation, lists)]
    finally:
        await api.close()


async def _rights(api: StripeApi) -> tuple[list[CheckResult], set[str]]:
    """Reads one object of each list. Returns the findings and the lists that may be read. Raises ApiTrouble."""
    lacking, readable, skew = [], set(), 0.0
    for path, right in READ.items():
        try:
            answer = await api.call(Request("GET", path, "", params={"limit": 1}))
        except Refusal as error:
            if error.status == 400:  # allowed: older versions of the API list payment methods of one customer only
                readable.add(path)
                continue
            if error.status != 403:
                raise
            lacking.append(right)
            continue
        readable.add(path)
        skew = (datetime.now(UTC) - answer.as_of).total_seconds()
    found = [ok(f"{api.base}: the key of {api.mode} mode may read {len(readable)} of {len(READ)} lists")]
    if lacking:
        remedy = f"give the restricted key Read on {', '.join(lacking)}, and Write on Customers"
        found = [failed(f"the key may not read {', '.join(lacking)}", remedy)]
    if abs(skew) > _MOST_SKEW_S:
        remedy = "synchronise this machine (NTP): signatures are refused if the clocks differ by five minutes"
        found.append(warning(f"this machine's clock differs from Stripe's by {skew:.0f} s", remedy))
    return found, readable


async def _prices(api: StripeApi, config: Config, readable: set[str]) -> list[CheckResult]:
    if "/v1/prices" not in readable:
        return [skipped("prices of the plans")]
    found = []
    plan_of = {price: name for name, plan in config.plans.items() for price in plan.prices}
    for price_id, plan_name in plan_of.items():
        try:
            price = (await api.call(Request("GET", f"/v1/prices/{price_id}", "", params={}))).body
        except Refusal as error:
            if error.status != 404:
                raise
            remedy = f"correct plans.{plan_name}.prices: prices of live and test mode have different ids"
            found.append(failed(f"{price_id} of plan {plan_name} does not exist at Stripe in {api.mode} mode", remedy))
            continue
        if not price.get("active", True):
            remedy = "keep it while customers have it; new customers need an active one"
            found.append(warning(f"{price_id} of plan {plan_name} is archived at Stripe", remedy))
    unlisted = [
        price["id"]
        for price in await _all(api, "/v1/prices", {"active": "true"})
        if price.get("type", "recurring") == "recurring" and price["id"] not in plan_of
    ]
    if unlisted:
        shown = ", ".join(unlisted[:10]) + (f" and {len(unlisted) - 10} more" if len(unlisted) > 10 else "")
        remedy = "add them to [plans.NAME] prices, or archive them: who buys them gets no access"
        found.append(warning(f"active recurring prices that no plan names: {shown}", remedy))
    return found or [ok(f"all {len(plan_of)} prices of the plans are active, and every active price has a plan")]


async def _endpoints(api: StripeApi, situation: Situation, readable: set[str]) -> list[CheckResult]:
    if "/v1/webhook_endpoints" not in readable:
        return [skipped("webhook endpoints")]
    present = await _all(api, "/v1/webhook_endpoints", {})
    public = situation.settings.public_url or situation.config.mail.app_url
    found = []
    for name in stripe_endpoints(situation.config):
        paths = {f"/webhooks/stripe/{name}", *(["/webhooks/stripe"] if name == DEFAULT else [])}
        here = [one for one in present if urlsplit(str(one.get("url"))).path.rstrip("/") in paths]
        found += endpoint_findings(name, here, public, event_types())
    return found


def stripe_endpoints(config: Config) -> list[str]:
    """Returns the endpoints to which Stripe posts: those without `own_events`."""
    return [name for name, endpoint in config.endpoints.items() if not endpoint.own_events]


def endpoint_findings(
    name: str, here: Sequence[Mapping[str, Any]], public: str, needed: Iterable[str]
) -> list[CheckResult]:
    """Returns the findings on one endpoint of the config. `here` are those at Stripe with its path."""
    url = f"{public.rstrip('/')}/webhooks/stripe/{name}"
    if not here:
        remedy = f"add an endpoint for {url} in Stripe's dashboard, with the events of docs/going-live.md"
        return [failed(f"Stripe has no endpoint for {name}", remedy)]
    found = []
    for one in here:
        shown = f"{name}: {one.get('url')}"
        types = set(one.get("enabled_events") or ())
        missing = [] if "*" in types else [type_ for type_ in needed if type_ not in types]
        if one.get("status", "enabled") != "enabled":
            found.append(failed(f"{shown} is disabled at Stripe", "enable it: Stripe sends nothing to it"))
        if missing:
            remedy = f"add to this endpoint: {', '.join(missing)}"
            found.append(failed(f"{shown} lacks {len(missing)} event types", remedy))
        if urlsplit(str(one.get("url"))).scheme != "https":
            found.append(warning(f"{shown} is not https://", "Stripe refuses http:// in live mode"))
    return found or [ok(f"{name}: {here[0].get('url')} is enabled and has every event type that a rule applies")]


async def _all(api: StripeApi, path: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the objects of a list, at most those of _MOST_PAGES pages. Raises ApiTrouble."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    for _ in range(_MOST_PAGES):
        body = (await api.call(Request("GET", path, "", params={**params, "limit": 100, **after}))).body
        page = [one for one in body.get("data") or () if isinstance(one, dict)]
        found += page
        if not body.get("has_more") or not page:
            break
        after = {"starting_after": str(page[-1]["id"])}
    return found
