"""Registers rules by event type: each rule module adds its rules to one `Stream`."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from schemas.plugin import PluginRule
from schemas.references import References

M = TypeVar("M", bound=BaseModel)

Decide = Callable[[Event[M], Known], list[Effect]]
Refer = Callable[[Event[M]], References]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one event type: the model of its object, and the function that decides.

    `rank` orders events that Stripe creates within one second. `terminal`: no later event overwrites this one.
    """

    type: str
    stream: str
    model: builtins.type[BaseModel]
    decide: Decide[Any]
    refer: Refer[Any]
    rank: int
    terminal: bool
    more: tuple[PluginRule, ...] = ()
    """Rules of plugins for the same type."""


@dataclass(slots=True)
class Stream:
    """A named family of event types with its rules (docs/decisions.md 2)."""

    name: str
    rules: dict[str, Rule] = field(default_factory=dict)

    def on(
        self, *types: str, model: type[M], refer: Refer[M], rank: int = 50, terminal: bool = False
    ) -> Callable[[Decide[M]], Decide[M]]:
        """Registers the decorated function as the rule of these event types.

        `refer` names the rows that the rule reads from `Known`; other rows are not loaded. Raises ValueError if the
        stream already has a rule for a type.
        """

        def register(decide: Decide[M]) -> Decide[M]:
            for type_ in types:
                if type_ in self.rules:
                    raise ValueError(f"two rules for {type_} in stream {self.name}")
                self.rules[type_] = Rule(type_, self.name, model, decide, refer, rank, terminal)
            return decide

        return register


OTHER = "other"
"""The stream of event types without a rule."""
