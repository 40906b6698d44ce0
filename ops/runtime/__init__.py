"""Used by every running process: health pages, watchdog, logs, clock."""
