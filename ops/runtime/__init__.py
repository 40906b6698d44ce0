"""What every process needs while it runs: health pages, watchdog, logs, clock."""
