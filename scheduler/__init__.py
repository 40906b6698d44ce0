"""Appends due timers to the log, and runs scheduled reconciliations and retries of dead letters."""
