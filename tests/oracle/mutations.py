"""Mistakes made on purpose: each takes one thing back that the rules do right, and the simulated lives must notice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

import pytest

import schemas.stripe.customer
import schemas.stripe.dispute
import schemas.stripe.fields
import schemas.stripe.invoice
import schemas.stripe.refund
import schemas.version
from schemas.version import Version

Mutation = Callable[[pytest.MonkeyPatch], None]


def replace_everywhere(patch: pytest.MonkeyPatch, original: object, replacement: object) -> None:
    """Replaces an object under every name that one of our modules has for it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("schemas.", "streams.")):
            for name in [name for name, value in vars(module).items() if value is original]:
                patch.setattr(module, name, replacement)


def last_arrival_wins(patch: pytest.MonkeyPatch) -> None:
    """The version of an event is when it arrived, not when it was created."""
    arrivals = count(1)

    def version(created: int, rank: int, event_id: str, *, terminal: bool = False) -> Version:
        return Version(f"0:{next(arrivals):012}:{rank:02}:{event_id}")

    replace_everywhere(patch, schemas.version.version, version)


def failed_refunds_count(patch: pytest.MonkeyPatch) -> None:
    """A refund that failed stays subtracted."""
    replace_everywhere(patch, schemas.stripe.refund.LOST, frozenset())


def lost_disputes_stay_open(patch: pytest.MonkeyPatch) -> None:
    """Only a dispute that was won is closed."""
    replace_everywhere(patch, schemas.stripe.dispute.CLOSED, frozenset({"won"}))


def older_shape_only(patch: pytest.MonkeyPatch) -> None:
    """An invoice's subscription is read where it was before 2025-03-31 (basil)."""
    patch.setattr(schemas.stripe.invoice, "child", partial(_child_without, "parent"))


def user_of_checkout_only(patch: pytest.MonkeyPatch) -> None:
    """`metadata.userId` of a customer is not read."""
    patch.setattr(schemas.stripe.customer, "child", partial(_child_without, "metadata"))


def _child_without(left_out: str, parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {} if name == left_out else schemas.stripe.fields.child(parent, name)


MUTATIONS: tuple[Mutation, ...] = (
    last_arrival_wins,
    failed_refunds_count,
    lost_disputes_stay_open,
    older_shape_only,
    user_of_checkout_only,
)
