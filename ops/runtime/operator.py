"""The name of the operator who runs a command."""

import getpass


def operator() -> str:
    """Return the name of the system user, "unknown" if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container often has no name
        return "unknown"
