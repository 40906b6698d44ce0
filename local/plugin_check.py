"""The tests that every plugin has to pass (`billing plugin test`): purity, repeats, order, mails (F5).

They run the plugin's `examples` and the project's own through the real rules, in memory.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.stripe.events import EXAMPLES, example
from schemas.effects import Announce, CancelTimers, Effect, FinishTimer, QueueEmail, StartTimer
from schemas.errors import BillingError, NotKnownYet
from schemas.known import Known
from schemas.mail import read_mail
from schemas.plugin import Plugin
from schemas.plugin_registry import installed_for
from schemas.purity import check_purity
from schemas.settings import Config
from schemas.timer import timer_event_type
from sinks.email.template_check import UnusableTemplates, check_templates
from streams.apply import apply, decide, decide_more
from streams.decode import decode
from streams.rules.catalog import RULES

ORDERS = 20
"""Orders of arrival that are tried, besides the given one and its reverse."""

EXAMPLES_AT = 1_800_000_000
"""When the project's own examples happened, in seconds since the epoch."""

Json = Mapping[str, Any]


class PluginFailed(BillingError):
    """A plugin breaks a promise. The message is one line."""


@dataclass
class PluginWorld:
    """The rows in memory after any number of events, and what the plugin has ordered."""

    config: Config = field(default_factory=Config)
    known: Known = field(init=False)
    mails: dict[str, QueueEmail] = field(default_factory=dict)
    announced: dict[tuple[str, str, str], Announce] = field(default_factory=dict)
    timers: dict[str, StartTimer] = field(default_factory=dict)
    _waiting: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = Known(self.config)

    def apply(self, *events: Json) -> PluginWorld:
        """Applies events in this order. One that refers to something unknown is applied once that is known."""
        for event in events:
            if self._apply(event):
                waiting, self._waiting = self._waiting, []
                for earlier in waiting:
                    self._apply(earlier)
        return self

    def orders(self) -> dict[str, object]:
        """What must be the same for every order of the same events."""
        return {
            "mails": sorted((key, mail.template) for key, mail in self.mails.items()),
            "notifications": sorted(self.announced),
            "timers": sorted(self.timers),
        }

    def _apply(self, event: Json) -> bool:
        decoded = decode(orjson.dumps(event), RULES)
        if decoded.rule is None or decoded.event is None:
            return False
        try:
            effects = decide(decoded.rule, decoded.event, self.known, decoded.rule.refer(decoded.event))
        except NotKnownYet:
            self._waiting.append(event)
            return False
        added = decide_more(decoded.more, self.known)
        apply([*effects, *added], decoded.event, self.known)
        for effect in added:
            self._keep(effect, str(event["id"]))
        return True

    def _keep(self, effect: Effect, event_id: str) -> None:
        match effect:
            case QueueEmail():
                read_mail(effect.template, effect.data)
                self.mails.setdefault(effect.key, effect)
            case Announce():
                self.announced.setdefault((effect.type, effect.subject, effect.once or event_id), effect)
            case StartTimer():
                self.timers[effect.key] = effect
            case CancelTimers() | FinishTimer():
                pass
            case _:
                raise PluginFailed(f"a rule orders {type(effect).__name__}")


def check_plugin(plugin: Plugin, config: Config, say: Callable[[str], None] = lambda _: None) -> None:
    """Runs every test, and reports each. Raises PluginFailed, UnusablePlugin."""
    check_purity(plugin)
    say(f"the modules of {len(plugin.rules)} rules are pure")
    with installed_for(plugin):
        events = [*(example(type_, EXAMPLES_AT) for type_ in sorted(EXAMPLES)), *plugin.examples]
        reached = _check_repeats(plugin, config, events)
        say(f"{reached} decisions are the same when repeated, and change no argument")
        missing = sorted({rule.type for rule in plugin.rules} - {str(event["type"]) for event in events})
        if missing:
            raise PluginFailed(f"plugin {plugin.name}: no example of {', '.join(missing)}: add it to `examples`")
        _check_orders(plugin, config)
        say(f"{len(plugin.examples)} examples lead to the same orders in {ORDERS + 2} orders of arrival, with repeats")
        if plugin.templates is not None:
            try:
                check_templates(config.mail)
            except UnusableTemplates as error:
                raise PluginFailed(f"plugin {plugin.name}: {error}") from error
            say(f"{len(plugin.mails)} mails can be rendered")


def _check_repeats(plugin: Plugin, config: Config, events: Sequence[Json]) -> int:
    """Decides each event twice, on copies, and compares the effects and the arguments."""
    count = 0
    for event in events:
        decoded = decode(orjson.dumps(event), RULES)
        for rule, read in decoded.more:
            before = copy.deepcopy(read.object)
            try:
                first, second = ([*decide_more([(rule, read)], Known(config))] for _ in range(2))
            except Exception as error:  # foreign code, which can raise anything
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise PluginFailed(f"plugin {plugin.name}: the rule of {rule.type} raises {reason}") from error
            count += 1
            if first != second:
                raise PluginFailed(f"plugin {plugin.name}: the rule of {rule.type} decides differently when repeated")
            if read.object != before:
                raise PluginFailed(f"plugin {plugin.name}: the rule of {rule.type} changes its event")
    return count


def _check_orders(plugin: Plugin, config: Config) -> None:
    expected = PluginWorld(config).apply(*_timers_last(plugin.examples)).orders()
    for events in _orders(list(plugin.examples)):
        found = PluginWorld(config).apply(*events).orders()
        if found != expected:
            first = next(name for name in expected if found[name] != expected[name])
            types = ", ".join(str(event["type"]) for event in events)
            raise PluginFailed(
                f"plugin {plugin.name}: the {first} depend on the order of arrival: {expected[first]} as given, "
                f"{found[first]} after {types}"
            )


def _orders(events: list[Json]) -> Iterator[list[Json]]:
    chance = random.Random(17)  # noqa: S311  # the same orders in each run
    yield _timers_last(events[::-1])
    yield _timers_last([event for event in events for _ in range(2)])
    for _ in range(ORDERS):
        shuffled = [*events, *chance.sample(events, len(events) // 2)]
        chance.shuffle(shuffled)
        yield _timers_last(shuffled)


def _timers_last(events: Sequence[Json]) -> list[Json]:
    """The scheduler appends the event of a timer, so it never arrives before the event that starts the timer."""
    return sorted(events, key=lambda event: str(event["type"]).startswith(timer_event_type("")))
