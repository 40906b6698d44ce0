"""`billing trigger`: creates a test event in Stripe's format, signs it, and posts it to the gateway."""

from __future__ import annotations

import time
from typing import Annotated

import orjson
import typer
from pydantic import SecretStr

from local.stripe.builder import ApiShape, StripeEvents
from local.stripe.events import EXAMPLES, example
from local.stripe.post import post_once
from ops.commands.terminal import exits, refuse, run_or_exit, say, say_json
from ops.runtime.exit_codes import ExitCode
from schemas.settings import Config, InvalidSettings, Mode, Settings, load_config, load_settings

_CUSTOMER = "cus_1"


def trigger(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="Event type, e.g. invoice.payment_failed; `list` prints all types.")
    ],
    customer: Annotated[str, typer.Option(help="Customer id in the event.")] = _CUSTOMER,
    shape: Annotated[ApiShape, typer.Option(help="Stripe API version of the event.")] = ApiShape.NEW,
    endpoint: Annotated[str, typer.Option(help="The endpoint to post to; it must be in test mode.")] = "default",
    url: Annotated[
        str,
        typer.Option(envvar="BILLING_GATEWAY_URL", help="URL of the gateway. Default: the gateway of the settings."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print event id and answer as JSON.")] = False,
) -> None:
    """Create a test event, sign it, and post it to the gateway.

    Example: billing trigger invoice.payment_failed --customer cus_42

    Exits 0 if the gateway accepted it, 1 if not, 2 if a setting is missing or the endpoint is in live mode, 3 if the
    gateway does not answer.
    """
    if type_ == "list":
        for name in EXAMPLES:
            say(name)
        return
    if type_ not in EXAMPLES:
        refuse("trigger", f"there is no example event of type {type_}; `billing trigger list` prints all types")
    with exits("trigger"):
        settings = load_settings()
        secret = secret_of(load_config(settings.config_path), settings, endpoint)
    event = orjson.dumps(example(type_, int(time.time()), StripeEvents(shape)))
    # The example objects belong to cus_1. Another customer gets its own subscription, invoice and checkout session.
    event = event.replace(f'"{_CUSTOMER}"'.encode(), orjson.dumps(customer))
    if customer != _CUSTOMER:
        for prefix in (b"sub_1", b"in_1", b"cs_test_1"):
            event = event.replace(
                b'"' + prefix + b'"', b'"' + prefix[:-1] + customer.removeprefix("cus_").encode() + b'"'
            )
    gateway = url or f"http://{settings.gateway_host}:{settings.gateway_port}"
    answer = run_or_exit("trigger", lambda: post_once(f"{gateway}/webhooks/stripe/{endpoint}", event, secret))
    event_id = orjson.loads(event)["id"]
    if as_json:
        say_json({"event_id": event_id, "status": answer.status, "reason": answer.reason})
    else:
        say(f"{event_id}: {answer.status} {answer.reason}".rstrip())
    if answer.status != 200:
        raise typer.Exit(ExitCode.NO)


def secret_of(config: Config, settings: Settings, endpoint: str) -> SecretStr:
    """Return the endpoint's secret. Raises InvalidSettings if the API key or the endpoint is in live mode."""
    key = settings.stripe_api_key.get_secret_value() if settings.stripe_api_key else ""
    if key.startswith(("sk_live_", "rk_live_")):
        raise InvalidSettings("BILLING_STRIPE_API_KEY is a live key: test events are not allowed")
    found = config.endpoints.get(endpoint)
    if found is None:
        raise InvalidSettings(f"no endpoint {endpoint} (configured: {', '.join(config.endpoints) or 'none'})")
    if found.mode is not Mode.TEST:
        raise InvalidSettings(f"endpoint {endpoint} is in live mode: test events are not allowed")
    return found.secrets[0]
