"""`billing trigger`: creates a test event in Stripe's format, signs it, and posts it to the gateway."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import orjson
import typer
from pydantic import SecretStr

from local.stripe.builder import ApiShape
from local.stripe.events import EXAMPLES
from local.stripe.post import PostResult, post_once
from local.stripe.trigger import EXAMPLE_CUSTOMER, InvalidEvent, endpoint_for, link_before, make_event, read_event
from ops.commands.terminal import exits, refuse, run_or_exit, say, say_json
from ops.runtime.exit_codes import ExitCode
from schemas.settings import Config, InvalidSettings, Mode, Settings, load_config, load_settings
from schemas.webhook_secrets import secret_variable, webhook_secrets


def trigger(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="Event type, e.g. invoice.payment_failed; `list` prints all types.")
    ],
    customer: Annotated[str, typer.Option(help="Customer id. The event's other ids follow it.")] = EXAMPLE_CUSTOMER,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Set a field of its object: amount_due=500. Repeatable."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, help="JSON file with an event or an object of TYPE.")
    ] = None,
    shape: Annotated[ApiShape, typer.Option(help="Stripe API version of the event.")] = ApiShape.NEW,
    endpoint: Annotated[
        str,
        typer.Option(
            help="The endpoint to post to. Default: `default`; for own events of plugins, one that takes them."
        ),
    ] = "",
    url: Annotated[
        str,
        typer.Option(envvar="BILLING_GATEWAY_URL", help="URL of the gateway. Default: the gateway of the settings."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print event id and answer as JSON.")] = False,
) -> None:
    """Create a test event, sign it, and post it to the gateway.

    Example: billing trigger invoice.payment_failed --customer cus_42 --set amount_due=500

    Prices are those of the config's plans. The ids follow the customer's: a refund fits the invoice triggered before.
    An own event of a plugin is like the first of the plugin's examples of its type.
    Before a refund or a dispute, the event payment_intent.succeeded is posted: it links their charge to the invoice.

    Exits 0 if the gateway accepted it, 1 if not, 2 if a setting is missing or the system is in live mode, 3 if the
    gateway does not answer.
    """
    if type_ == "list":
        for name in EXAMPLES:
            say(name)
        return
    now, changes = int(time.time()), set_ or []
    try:
        with exits("trigger"):
            settings = load_settings()
            config = load_config(settings.config_path)
            endpoint = endpoint or endpoint_for(type_, config)
            secret = secret_of(config, settings, endpoint)
        if file is not None:
            made = read_event(file.read_bytes(), type_, now, shape=shape, changes=changes)
        else:
            made = make_event(type_, now, config, customer=customer, shape=shape, changes=changes)
        link = link_before(type_, now, config, customer=customer, shape=shape) if file is None else None
    except (InvalidEvent, OSError) as error:
        refuse("trigger", error)
    target = f"{url or f'http://{settings.gateway_host}:{settings.gateway_port}'}/webhooks/stripe/{endpoint}"

    async def post() -> PostResult:
        if link is not None and (first := await post_once(target, orjson.dumps(link), secret)).status != 200:
            return first
        return await post_once(target, orjson.dumps(made), secret)

    answer = run_or_exit("trigger", post)
    event_id = made["id"]
    if as_json:
        linked = {"linked_by": link["id"]} if link is not None else {}
        say_json({"event_id": event_id, "status": answer.status, "reason": answer.reason} | linked)
    else:
        say(f"{event_id}: {answer.status} {answer.reason}".rstrip())
    if answer.status != 200:
        raise typer.Exit(ExitCode.NO)


def secret_of(config: Config, settings: Settings, endpoint: str) -> SecretStr:
    """Return the endpoint's secret. Raises InvalidSettings if the API key or the system is in live mode."""
    key = settings.stripe_api_key.get_secret_value() if settings.stripe_api_key else ""
    if key.startswith(("sk_live_", "rk_live_")):
        raise InvalidSettings("BILLING_STRIPE_API_KEY is a live key: test events are not allowed")
    if config.mode is not Mode.TEST:
        raise InvalidSettings('BILLING_CONFIG: mode = "live": test events are not allowed')
    found = config.endpoints.get(endpoint)
    if found is None:
        raise InvalidSettings(f"no endpoint {endpoint} (configured: {', '.join(config.endpoints) or 'none'})")
    given = webhook_secrets(endpoint, found)
    if not given:
        raise InvalidSettings(f"endpoint {endpoint} has no secret, in BILLING_CONFIG or in {secret_variable(endpoint)}")
    return SecretStr(given[0])
