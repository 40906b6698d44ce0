"""The main functions of the long-running processes."""
