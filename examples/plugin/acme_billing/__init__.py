"""The plugin `acme`: the entry point of the package."""

from acme_billing import handlers as handlers  # registers the handlers
from acme_billing.rules import plugin

__all__ = ["plugin"]
