"""What every HTTP server of this project has in common."""

from __future__ import annotations

from aiohttp import web_response

SERVER = "billing"


def hide_versions() -> None:
    """Sets the `Server` header of all answers, also of those that aiohttp makes itself before a handler runs.

    The default names the versions of Python and aiohttp. aiohttp has no setting for it.
    """
    setattr(web_response, "SERVER_SOFTWARE", SERVER)  # noqa: B010  # mypy refuses an assignment to an import
