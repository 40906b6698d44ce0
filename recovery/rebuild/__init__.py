"""Apply the log to an empty database, and compare two databases."""
