"""Who uses this system."""

import getpass


def operator() -> str:
    """Who types: the user of this system, by name where it has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "unknown"
