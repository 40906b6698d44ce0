"""Makes links that sign in once."""

from __future__ import annotations

from console.identity import BY_LINK
from schemas.console_settings import Role
from schemas.settings import Settings
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions
from sinks.postgres.console_sessions import ConsoleSessions, new_token


async def make_link(settings: Settings, entry: AuditEntry, role: Role) -> str:
    """Returns a link that signs in once with this role, within 24 hours, and records `entry`.

    Raises StoreUnavailable.
    """
    token = new_token()
    await ConsoleSessions(settings.database_url).add_link(token, f"{entry.who}{BY_LINK}", role.label)
    await ConsoleActions(settings.database_url).note(entry)
    return sign_in_url(settings, token)


def sign_in_url(settings: Settings, token: str) -> str:
    """Returns the console's address with the token."""
    return f"{settings.console_base}/sign-in?token={token}"
