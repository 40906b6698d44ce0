"""Lists all streams and finds the stream and the rule of an event type. A new stream is one more line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from schemas.plugin import AnyObject, Plugin, PluginRule
from schemas.plugin_registry import follow
from schemas.references import References
from streams.rules import accounts, checkout, payments
from streams.rules import reminders as reminders  # adds its rules to the streams that set its timers
from streams.rules.customers import events as customer_events
from streams.rules.invoices import amounts as amounts  # adds its rules to the stream of invoices
from streams.rules.invoices import events as invoice_events
from streams.rules.invoices import overdue as overdue  # as above
from streams.rules.registry import OTHER, Rule, Stream
from streams.rules.subscriptions import events as subscription_events

STREAMS: dict[str, Stream] = {
    module.stream.name: module.stream
    for module in (subscription_events, checkout, invoice_events, customer_events, payments, accounts)
}


_OWN_RULES: dict[str, Rule] = {type_: rule for stream in STREAMS.values() for type_, rule in stream.rules.items()}
RULES: dict[str, Rule] = {}
"""By event type, with the rules of plugins."""


def _with_plugins(plugins: Sequence[Plugin]) -> None:
    """A type for which only plugins have rules belongs to the stream `other`."""
    more: dict[str, list[PluginRule]] = {}
    for rule in (rule for plugin in plugins for rule in plugin.rules):
        more.setdefault(rule.type, []).append(rule)
    RULES.clear()
    RULES.update(_OWN_RULES)
    for type_, rules in more.items():
        RULES[type_] = replace(_OWN_RULES.get(type_) or _without_effects(type_), more=tuple(rules))


def _without_effects(type_: str) -> Rule:
    return Rule(type_, OTHER, AnyObject, lambda _event, _known: [], lambda _event: References(), 50, False)


follow(_with_plugins)


def rule_of(type_: str) -> Rule | None:
    """Returns the rule of an event type; None for a type that is only recorded (behaviours.md C13)."""
    return RULES.get(type_)


def stream_of(type_: str) -> str:
    """Returns the name of the type's stream; `other` for a type without a rule."""
    rule = rule_of(type_)
    return rule.stream if rule else OTHER
