"""Why a sign-in by an OpenID provider did not succeed."""

from __future__ import annotations

from schemas.errors import BillingError


class ProviderUnavailable(BillingError):
    """The OpenID provider does not answer, or its answer cannot be used."""


class TooManySignIns(BillingError):
    """The provider is being asked for too many sign-ins now."""


class SignInRefused(BillingError):
    """The person is not signed in. The message is shown. `who` is the verified name of a person without a role."""

    def __init__(self, message: str, *, who: str | None = None) -> None:
        super().__init__(message)
        self.who = who
