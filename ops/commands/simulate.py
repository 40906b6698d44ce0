"""`billing simulate`: months of simulated billing, signed and posted to this system or to any endpoint in test mode."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import SecretStr

from local.stripe.builder import ApiShape
from local.stripe.simulator.company import Company
from local.stripe.simulator.delivery import Trouble
from local.stripe.simulator.run import Simulation, Statistics, prices_of
from ops.commands.terminal import exits, run_or_exit, say, say_json
from ops.commands.trigger import secret_of
from ops.runtime.exit_codes import ExitCode
from schemas.settings import InvalidSettings, load_config, load_settings

SHARE = 0.1
"""Of the events: how many arrive twice, or late, where that is asked for."""
_SECRET = "BILLING_WEBHOOK_SECRET"  # noqa: S105  # the name of the variable


def simulate(
    customers: Annotated[int, typer.Option(min=1, max=100_000, help="How many people.")] = 100,
    months: Annotated[int, typer.Option(min=1, max=36, help="How many months of their billing, up to now.")] = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same lives and the same troubles.")] = 1,
    speed: Annotated[
        float, typer.Option(min=0, help="Simulated seconds per second; 0 posts as fast as the endpoint answers.")
    ] = 0.0,
    to: Annotated[
        str, typer.Option(help=f"Another endpoint's URL; its secret is read from {_SECRET}. Default: this system.")
    ] = "",
    endpoint: Annotated[str, typer.Option(help="The endpoint of this system; it must be in test mode.")] = "default",
    duplicates: Annotated[bool, typer.Option(help="Send every tenth event twice.")] = False,
    disorder: Annotated[bool, typer.Option(help="Send every tenth event up to two hours late.")] = False,
    outage: Annotated[bool, typer.Option(help="Lose what happens in four days of an outage.")] = False,
    shape: Annotated[ApiShape, typer.Option(help="The API version of the endpoint.")] = ApiShape.NEW,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Simulate months of billing and post the events as Stripe does.

    Example: billing simulate --customers 50 --months 12 --duplicates --disorder

    Exits 0 if every event was accepted, 1 if some were refused, 2 if a setting is missing or the system is live, 3 if
    the endpoint does not answer.
    """
    with exits("simulate"):
        url, secret, prices = _target(to, endpoint)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    trouble = Trouble(SHARE * duplicates, SHARE * disorder, int(outage))
    simulation = Simulation(
        company=Company(customers, months, seed, int(today.timestamp())),
        url=url,
        secret=secret,
        trouble=trouble,
        shape=shape,
        speed=speed,
        prices=prices,
    )
    statistics = run_or_exit("simulate", simulation.run)
    _print(statistics, as_json=as_json)
    if statistics.refused:
        raise typer.Exit(ExitCode.NO)


def _target(to: str, endpoint: str) -> tuple[str, SecretStr, dict[str, str]]:
    """Return where to post, with which secret, and how prices are named there. Raises InvalidSettings."""
    if to:
        secret = os.environ.get(_SECRET, "")
        if not secret:
            raise InvalidSettings(f"--to needs the endpoint's signing secret in {_SECRET}")
        if os.environ.get("BILLING_STRIPE_API_KEY", "").startswith(("sk_live_", "rk_live_")):
            raise InvalidSettings("BILLING_STRIPE_API_KEY is a live key: test events are not allowed")
        return to, SecretStr(secret), {}
    settings = load_settings()
    config = load_config(settings.config_path)
    secret_value = secret_of(config, settings, endpoint)
    gateway = os.environ.get("BILLING_GATEWAY_URL") or f"http://{settings.gateway_host}:{settings.gateway_port}"
    return f"{gateway}/webhooks/stripe/{endpoint}", secret_value, prices_of(config)


def _print(statistics: Statistics, *, as_json: bool) -> None:
    if as_json:
        shown = {name: getattr(statistics, name) for name in Statistics.__slots__}
        say_json(shown)
        return
    rate = statistics.posted / statistics.seconds if statistics.seconds else 0.0
    say(f"{statistics.lives} lives, {statistics.events} events of {len(statistics.types)} types")
    say(
        f"posted {statistics.posted} in {statistics.seconds:.0f} s ({rate:.0f}/s), of these {statistics.duplicates} "
        f"duplicates; {statistics.retries} retries; {statistics.lost} lost in an outage"
    )
    for title, counts in (
        ("Steps", statistics.steps),
        ("Subscriptions changed", statistics.transitions),
        ("Subscriptions at the end", statistics.statuses),
        ("Refused", statistics.refused),
    ):
        _print_counts(title, counts)


def _print_counts(title: str, counts: Counter[str]) -> None:
    if counts:
        say()
        say(title)
        for name, count in (+counts).most_common():
            say(f"  {count:>7}  {name}")
