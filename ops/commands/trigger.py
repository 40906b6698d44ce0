"""`billing trigger`: makes an event as Stripe would, signs it, and posts it to a gateway in test mode."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import aiohttp
import orjson
import typer
from pydantic import SecretStr

from local.stripe.builder import ApiShape, StripeEvents
from local.stripe.events import EXAMPLES, example
from local.stripe.post import PostResult, post
from ops.commands.terminal import EXIT_INVALID_SETTINGS
from schemas.settings import Config, InvalidSettings, Mode, Settings, load_config, load_settings

EXIT_REFUSED = 1
_CUSTOMER = "cus_1"


def trigger(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="e.g. invoice.payment_failed; `list` names them all.")],
    customer: Annotated[str, typer.Option(help="Whom it is about.")] = _CUSTOMER,
    shape: Annotated[ApiShape, typer.Option(help="The API version it is rendered in.")] = ApiShape.NEW,
    endpoint: Annotated[str, typer.Option(help="The endpoint to post to; it must be in test mode.")] = "default",
    url: Annotated[
        str, typer.Option(envvar="BILLING_GATEWAY_URL", help="The gateway; by default the one of these settings.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the event's id and the answer as JSON.")] = False,
) -> None:
    """Make a test event, sign it, and post it to the gateway.

    Example: billing trigger invoice.payment_failed --customer cus_42

    Exits 0 if it was accepted, 1 if not, 2 if a setting is missing or the endpoint is live.
    """
    if type_ == "list":
        typer.echo("\n".join(EXAMPLES))
        return
    if type_ not in EXAMPLES:
        typer.echo(
            f"trigger: no event of type {type_} can be made; `billing trigger list` names those that can", err=True
        )
        raise typer.Exit(EXIT_INVALID_SETTINGS)
    try:
        settings = load_settings()
        secret = _secret_of(load_config(settings.config_path), settings, endpoint)
    except InvalidSettings as error:
        typer.echo(f"trigger: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    event = orjson.dumps(example(type_, int(time.time()), StripeEvents(shape)))
    # The made objects are of one customer; their ids are told apart by whose they are.
    event = event.replace(f'"{_CUSTOMER}"'.encode(), orjson.dumps(customer))
    if customer != _CUSTOMER:
        for prefix in (b"sub_1", b"in_1", b"cs_test_1"):
            event = event.replace(
                b'"' + prefix + b'"', b'"' + prefix[:-1] + customer.removeprefix("cus_").encode() + b'"'
            )
    gateway = url or f"http://{settings.gateway_host}:{settings.gateway_port}"
    try:
        answer = asyncio.run(_post(f"{gateway}/webhooks/stripe/{endpoint}", event, secret))
    except (aiohttp.ClientError, TimeoutError) as error:
        typer.echo(f"trigger: {gateway} does not answer: {error}", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    event_id = orjson.loads(event)["id"]
    if as_json:
        typer.echo(orjson.dumps({"event_id": event_id, "status": answer.status, "reason": answer.reason}))
    else:
        typer.echo(f"{event_id}: {answer.status} {answer.reason}".rstrip())
    if answer.status != 200:
        raise typer.Exit(EXIT_REFUSED)


def _secret_of(config: Config, settings: Settings, endpoint: str) -> SecretStr:
    """The endpoint's secret. Raises InvalidSettings where anything about this configuration is live."""
    key = settings.stripe_api_key.get_secret_value() if settings.stripe_api_key else ""
    if key.startswith(("sk_live_", "rk_live_")):
        raise InvalidSettings("BILLING_STRIPE_API_KEY is a live key: no made-up events here")
    found = config.endpoints.get(endpoint)
    if found is None:
        raise InvalidSettings(f"no endpoint {endpoint} (there are {', '.join(config.endpoints) or 'none'})")
    if found.mode is not Mode.TEST:
        raise InvalidSettings(f"endpoint {endpoint} is in live mode: no made-up events there")
    return found.secrets[0]


async def _post(url: str, body: bytes, secret: SecretStr) -> PostResult:
    async with aiohttp.ClientSession() as session:
        return await post(session, url, body, secret)
