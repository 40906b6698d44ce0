"""Opens sessions of Stripe's customer portal. The key needs the right `billing_portal: write`."""

from __future__ import annotations

from typing import Any

from schemas.portal_link import PortalLink, PortalRefused
from sinks.stripe_api.api import NoAnswer, Refusal, Request, StripeApi

_RETRIED = frozenset({409, 429})


class PortalApi:
    """Opens sessions that begin at "add a payment method" and return to `return_url`."""

    def __init__(self, api: StripeApi, return_url: str, configuration: str | None = None) -> None:
        self._api = api
        self._params: dict[str, Any] = {"return_url": return_url, "flow_data": {"type": "payment_method_update"}}
        if configuration is not None:
            self._params["configuration"] = configuration

    async def open(self, link: PortalLink) -> str:
        """Returns the address of a new session. Raises PortalRefused, or ServiceUnavailable if Stripe cannot answer."""
        params = self._params | {"customer": link.customer_id}
        try:
            answer = await self._api.call(Request("POST", "/v1/billing_portal/sessions", link.account, params=params))
        except Refusal as refusal:
            if refusal.status >= 500 or refusal.status in _RETRIED:
                raise NoAnswer(str(refusal)) from None
            raise PortalRefused(str(refusal)) from None
        url = answer.body.get("url")
        if not isinstance(url, str):
            raise PortalRefused("the session has no address")
        return url
