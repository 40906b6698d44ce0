"""The stream that the modules of this package fill with their rules."""

from __future__ import annotations

from streams.rules.registry import Stream

stream = Stream("payments")
