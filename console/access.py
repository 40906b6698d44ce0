"""Who may do what: the one table of all actions and the least role for each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from schemas.console_settings import Role


class Action(StrEnum):
    """What a route does. A route without an action in `LEAST_ROLE` does not start."""

    SIGN_IN = "sign in"
    SIGN_OUT = "sign out"
    LOAD_ASSET = "load a stylesheet, script or icon"
    SEE = "see pages"
    SEE_MONEY = "see money"
    SEE_SETTINGS = "see the settings in force"
    SEE_AUDIT = "see the record of actions"
    REVEAL = "reveal personal data"
    RESEND_MAIL = "resend a mail"
    REPLAY = "replay events"
    DISCARD = "discard dead letters"
    RELEASE_BRAKE = "release the brake"
    REQUEUE = "requeue an outbox entry"
    FIRE_TIMER = "fire a timer"
    CHECK = "run a reconciliation or an audit"


LEAST_ROLE: Mapping[Action, Role | None] = {
    Action.SIGN_IN: None,  # no one is signed in yet
    Action.LOAD_ASSET: None,  # the sign-in page needs them
    Action.SIGN_OUT: Role.VIEWER,
    Action.SEE: Role.VIEWER,
    Action.SEE_MONEY: Role.FINANCE,
    Action.SEE_SETTINGS: Role.OPERATOR,
    Action.SEE_AUDIT: Role.ADMIN,
    Action.REVEAL: Role.SUPPORT,
    Action.RESEND_MAIL: Role.SUPPORT,
    Action.REPLAY: Role.OPERATOR,
    Action.DISCARD: Role.OPERATOR,
    Action.RELEASE_BRAKE: Role.OPERATOR,
    Action.REQUEUE: Role.OPERATOR,
    Action.FIRE_TIMER: Role.OPERATOR,
    Action.CHECK: Role.OPERATOR,
}

READS = frozenset({Action.SEE, Action.SEE_MONEY, Action.SEE_SETTINGS, Action.SEE_AUDIT, Action.LOAD_ASSET})
"""Actions that change and reveal nothing. With sign-in and sign-out they are all that a read-only console serves."""

SESSION_ACTIONS = frozenset({Action.SIGN_IN, Action.SIGN_OUT})


def may(role: Role, action: Action) -> bool:
    """Returns whether a person with this role may do this."""
    least = LEAST_ROLE[action]
    return least is None or role >= least


def is_served(action: Action, *, read_only: bool) -> bool:
    """Returns whether the console registers routes with this action."""
    return not read_only or action in READS or action in SESSION_ACTIONS
