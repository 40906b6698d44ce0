"""Why a request is not served. The guard shows the messages."""

from __future__ import annotations

from schemas.errors import BillingError


class NotFound(BillingError):
    """The page's subject is not known. The message is shown."""


class Refused(BillingError):
    """A form has a value that cannot be used. The message is shown."""
