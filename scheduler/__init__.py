"""Sends due timers, scheduled reconciliations and retries into the log."""
