"""Creates the reader of Stripe's lists from the settings, and finds the accounts to read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from schemas.rate import RateLimit
from schemas.settings import Config, InvalidSettings, Settings
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import ApiKey, parse_base, parse_key
from sinks.stripe_api.listing import MAX_PAGE_BYTES, Lists


@asynccontextmanager
async def listing(settings: Settings, config: Config, *, patience: timedelta | None = None) -> AsyncIterator[Lists]:
    """Yield a reader of Stripe's lists; close it at the end of the block. Raises InvalidSettings.

    `patience` is how long one request is retried, by default as long as Stripe's Retry-After asks for (see Lists).
    """
    key, base = key_and_base(settings, config)
    api = StripeApi(key, base, max_answer_bytes=MAX_PAGE_BYTES)
    try:
        yield Lists(api, RateLimit(settings.stripe_calls_per_second), patience=patience)
    finally:
        await api.close()


def key_and_base(settings: Settings, config: Config) -> tuple[ApiKey, str]:
    """Return the API key and the base address. Raises InvalidSettings, also if the key is of the other mode."""
    if settings.stripe_api_key is None:
        raise InvalidSettings("BILLING_STRIPE_API_KEY is not set")
    key = parse_key(settings.stripe_api_key, mode=config.mode)
    return key, parse_base(settings.stripe_api_base)


async def connected_accounts(lists: Lists) -> list[str]:
    """Return the ids of all accounts connected to the platform. Raises ApiTrouble."""
    return [account.id async for page in lists.pages("/v1/accounts", {}) for account in page.items]


async def accounts_asked(lists: Lists, named: list[str], *, all_accounts: bool) -> list[str]:
    """Return the accounts to read; '' is the platform's own. Raises ApiTrouble."""
    if all_accounts:
        return ["", *await connected_accounts(lists)]
    return named or [""]
