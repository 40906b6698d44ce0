"""The stream `payments`. The modules of this package add their rules to it."""

from __future__ import annotations

from streams.rules.registry import Stream

stream = Stream("payments")
