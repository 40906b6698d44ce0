"""A plugin: rules, mails, kinds of notifications, handlers and own events of a package outside this project (F5).

    plugin = Plugin("acme", templates=Path(__file__).parent / "mails")

    @plugin.on("customer.subscription.created", model=Bought)
    def welcome_call(event: Event[Bought], known: Known) -> list[Effect]: ...

The package names it as an entry point of the group `billing_stream.plugins`, and the config in `plugins`.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.effects import Announce, CancelTimers, Effect, FinishTimer, QueueEmail, StartTimer
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.known import Known
from schemas.mail import BUILT_IN_MAILS, MailData
from schemas.plugin_names import RESERVED, belongs_to
from schemas.plugin_registry import UnusablePlugin
from schemas.references import References
from schemas.timer import timer_event_type

M = TypeVar("M", bound=BaseModel)
_NAME = re.compile(r"[a-z][a-z0-9]{1,19}")
_KIND = re.compile(r"[a-z][a-z0-9_.-]{1,60}")
_HANDLER = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")

OWN_ID = "own_"
"""The beginning of an own event's id, so that it never is the id of an event of Stripe."""


class AnyObject(BaseModel):
    """The object of an event of which a rule reads nothing."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True)
class PluginRule:
    """A rule of a plugin. It is decided on what is stored before the event, after the project's own rule."""

    type: str
    owner: Plugin = field(repr=False, compare=False)
    model: builtins.type[BaseModel]
    decide: Callable[[Event[Any], Known], list[Effect]]
    refer: Callable[[Event[Any]], References]

    @property
    def plugin(self) -> str:
        """The plugin's name."""
        return self.owner.name

    def references(self, event: Event[Any]) -> References:
        """Returns the rows that `refer` names, and always the event's customer, the plugin's open timers of a loaded
        customer, and the timer of a timer's event.

        So an effect about them is decided on what is stored: whether the customer is erased, whether the timer is open.
        """
        found = References(timers_of={(f"{self.plugin}*", "")})
        found.update([self.refer(event)])
        if event.customer_id is not None:
            found.customers.add((event.account, event.customer_id))
        if event.type.startswith(timer_event_type("")):
            key = getattr(event.object, "timer_key", None) or getattr(event.object, "id", None)
            if isinstance(key, str):
                found.timers.add(key)
        return found

    def check(self, effects: Sequence[Effect]) -> None:
        """Raises RuleViolated for an effect that only the project's rules may order, a name without the prefix, or a
        mail or kind of notification that is not declared.
        """
        for effect in effects:
            match effect:
                case QueueEmail(key=name, template=template):
                    if template not in self.owner.mails and template not in BUILT_IN_MAILS:
                        raise RuleViolated(f"plugin {self.plugin}: it has no mail {template}")
                case StartTimer(key=name):
                    pass
                case Announce(type=name):
                    if name not in self.owner.notifications:
                        raise RuleViolated(f"plugin {self.plugin}: {name} is not one of its `notifications`")
                case CancelTimers(kinds=kinds):
                    name = min(kinds, default="")
                case FinishTimer(key):
                    name = key
                case _:
                    raise RuleViolated(f"plugin {self.plugin}: a rule may not order {type(effect).__name__}")
            kinds = effect.kinds if isinstance(effect, CancelTimers) else ()
            kinds = (effect.kind,) if isinstance(effect, StartTimer) else kinds
            for text in (name, *kinds):
                if not belongs_to(text, (self.plugin,)):
                    raise RuleViolated(f"plugin {self.plugin}: {text} does not begin with the plugin's name")


@dataclass(frozen=True, slots=True)
class PluginMail:
    """A mail of a plugin: the model of its data, realistic data, and whether customers can unsubscribe from it."""

    model: type[MailData]
    sample: Mapping[str, Any]
    is_optional: bool = False
    is_for_operator: bool = False


Handle = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """Delivers notifications: `handle` gets the message of docs/feed.md, with its `id`. It raises to be tried again."""

    destination: str
    events: tuple[str, ...]
    handle: Handle


@dataclass(slots=True)
class Plugin:
    """What a package adds. Names of mails begin with `NAME-`, other names with `NAME.`."""

    name: str
    templates: Path | None = None
    """The folder of its mails: LANGUAGE/NAME-….j2."""
    own_events: tuple[str, ...] = ()
    """Types of events that are not Stripe's, which an endpoint with `own_events` accepts."""
    notifications: tuple[str, ...] = ()
    """Kinds of notifications that its rules order by `Announce`."""
    examples: Sequence[Mapping[str, Any]] = ()
    """Events in the order in which they happened, for `billing plugin test`."""
    rules: list[PluginRule] = field(default_factory=list)
    mails: dict[str, PluginMail] = field(default_factory=dict)
    handlers: list[Handler] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UnusablePlugin(f"plugin {self.name!r}: the name needs 2 to 20 lower-case letters and digits")
        if self.name in RESERVED:
            raise UnusablePlugin(f"plugin {self.name}: names of the project or of Stripe begin with {self.name}")
        for kind in (*self.own_events, *self.notifications):
            if not _KIND.fullmatch(kind) or not kind.startswith(f"{self.name}."):
                raise UnusablePlugin(f"plugin {self.name}: {kind} does not begin with {self.name}.")

    def on(
        self, *types: str, model: type[M], refer: Callable[[Event[M]], References] | None = None
    ) -> Callable[[Callable[[Event[M], Known], list[Effect]]], Callable[[Event[M], Known], list[Effect]]]:
        """Registers the decorated function as a rule of these types, in addition to the project's own.

        `refer` names the rows that the rule reads from `Known`; by default none.
        """

        def register(decide: Callable[[Event[M], Known], list[Effect]]) -> Callable[[Event[M], Known], list[Effect]]:
            for type_ in types:
                if any(rule.type == type_ for rule in self.rules):
                    raise UnusablePlugin(f"plugin {self.name}: two rules for {type_}")
                self.rules.append(PluginRule(type_, self, model, decide, refer or _nothing))
            return decide

        return register

    def mail(
        self,
        name: str,
        model: type[MailData],
        sample: Mapping[str, Any],
        *,
        is_optional: bool = False,
        is_for_operator: bool = False,
    ) -> None:
        """Registers a mail. Its wordings are `templates`/LANGUAGE/NAME.j2, at least in English."""
        if name in self.mails or not name.startswith(f"{self.name}-"):
            raise UnusablePlugin(
                f"plugin {self.name}: mail {name} is registered twice, or lacks {self.name}- before it"
            )
        if self.templates is None or not (self.templates / "en" / f"{name}.j2").is_file():
            raise UnusablePlugin(f"plugin {self.name}: mail {name} has no wording en/{name}.j2 in its templates")
        self.mails[name] = PluginMail(model, sample, is_optional, is_for_operator)

    def handler(self, name: str, *, events: tuple[str, ...]) -> Callable[[Handle], Handle]:
        """Registers the decorated coroutine function as the destination NAME of notifications of these types."""

        def register(handle: Handle) -> Handle:
            if not _HANDLER.fullmatch(name):
                raise UnusablePlugin(f"plugin {self.name}: {name!r} is no name of a handler: a-z, 0-9, - and _")
            destination = f"{self.name}-{name}"
            if any(one.destination == destination for one in self.handlers):
                raise UnusablePlugin(f"plugin {self.name}: two handlers {name}")
            self.handlers.append(Handler(destination, events, handle))
            return handle

        return register


def _nothing(_: Event[Any]) -> References:
    return References()
