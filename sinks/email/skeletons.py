"""Renders a mail once for all mails of the same shape, and fills in what differs.

Two mails have the same shape if they are the same mail in the same locale, have the same fields, and agree in all
numbers, flags and fixed words. They differ in texts, amounts, times and links. For the first of them the template is
rendered with a slot in place of each of these values; for the others the slots of the result are filled.

A slot can only be written, tested for being there, and passed to `words`. Whatever else a wording does with a value
raises `NotPlain` or leaves an unknown mark: its mails are rendered one by one (rendering.py). So both ways have the
same result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NoReturn, get_args, get_origin

from jinja2 import Environment, nodes
from markupsafe import Markup, escape

from schemas.errors import BillingError
from schemas.mail import MailData, Money
from sinks.email.localize import Words
from sinks.email.mime import quoted_printable

_MARK = re.compile("\ue000Ab(\\d+)\ue001")
_SIGNS = frozenset("\ue000\ue001")
_WORTH_A_PIECE = 300
"""Characters of lines without slots from which it is quicker to encode them once than with the lines around them."""
_PLAIN_FILTERS = frozenset({"trim", "wrap", "capitalize", "urlencode"})
"""Without arguments. Texts with slots have no white space at their ends, so `trim` changes nothing. What the others do
is done when a slot is filled."""
_PLAIN_TESTS = frozenset({"none", "defined", "undefined"})
_PLAIN_NODES = (
    *(nodes.Template, nodes.Extends, nodes.Block, nodes.Import, nodes.FromImport, nodes.Output, nodes.TemplateData),
    *(nodes.Macro, nodes.CallBlock, nodes.Call, nodes.Keyword, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Const, nodes.Name, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem),
    *(nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Concat),
)
"""What a wording may consist of. A slot in a place where it cannot be used raises an exception there."""


class NotPlain(BillingError):
    """A wording does more with a value than to write it."""


class WordingEnvironment(Environment):
    """Reads and renders wordings, and notes whether all that it has read are plain enough for slots."""

    is_plain = True
    last_is_plain = True
    """Whether the file that was compiled last is plain."""
    slots: Slots | None = None
    """The slots of the skeleton that is made at present."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        self.last_is_plain = all(map(_is_plain, parsed.find_all(nodes.Node)))
        self.has_read(is_plain=self.last_is_plain)
        return parsed

    def has_read(self, *, is_plain: bool) -> None:
        """Note a file that was compiled now or before."""
        self.is_plain = self.is_plain and is_plain

    def changed(self, text: Slot | str, change: Callable[[Any], str], *, is_html: bool = False) -> Slot | str:
        """Return the text as `change` changes it; a slot for the result if the text has slots. Raises NotPlain.

        `is_html`: `change` reads the text as HTML, so that it gets the values escaped.
        """
        return change(text) if self.slots is None else self.slots.changed(text, change, is_html=is_html)

    def defer(self, name: str, change: Callable[[Any], str]) -> None:
        """Set a filter that changes a text, also one with slots."""
        self.filters[name] = lambda text: self.changed(text, change)


def _is_plain(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        has_arguments = bool(node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
        return node.name in _PLAIN_FILTERS and not has_arguments
    return node.name in _PLAIN_TESTS if isinstance(node, nodes.Test) else isinstance(node, _PLAIN_NODES)


class _Comparable:
    """Can be compared with other fields of the same mail only: which of them are equal is part of the shape."""

    group: int | None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Comparable) and self.group is not None and other.group is not None:
            return self.group == other.group
        raise NotPlain

    def __hash__(self) -> NoReturn:
        raise NotPlain


@dataclass(slots=True, eq=False)
class Slot(_Comparable):
    """Takes the place of a text that is written into a mail."""

    mark: str
    group: int | None = None

    def __str__(self) -> str:
        return self.mark

    __html__ = __str__


@dataclass(slots=True, eq=False)
class _Opaque(_Comparable):
    """Takes the place of an amount or a time, which `words` formats."""

    field: str
    group: int | None

    def __str__(self) -> NoReturn:
        raise NotPlain

    __html__ = __str__


SlotValues = dict[str, Any]
"""The values of a mail's fields by name, and texts of them that have been formatted once."""
Fill = Callable[[SlotValues, Words], str]
"""Returns the text of a slot: from the values of a mail, and the words of its locale."""


class Slots:
    """The slots of one skeleton while it is made."""

    def __init__(self, words: Words) -> None:
        self.words = _SlotWords(self, words)
        self._fills: list[Fill] = []

    def of(self, fill: Fill) -> Slot:
        self._fills.append(fill)
        return Slot(f"\ue000Ab{len(self._fills) - 1}\ue001")

    def field(self, name: str, group: int | None = None) -> Slot:
        slot = self.of(lambda values, _: values[name])
        slot.group = group
        return slot

    def changed(self, text: Slot | str, change: Callable[[Any], str], *, is_html: bool = False) -> Slot | str:
        """Return the text as `change` changes it; a slot for the result if the text has slots. Raises NotPlain."""
        parts = self.parts(str(text), is_html=is_html)
        if not parts.fills:
            return change(text)
        if isinstance(text, Markup):  # its slots would be changed before they are escaped
            raise NotPlain
        return self.of(lambda values, words: change(parts.filled(values, words)))

    def parts(self, text: str, *, is_html: bool = False) -> Parts:
        """Return the text cut at its slots. Raises NotPlain for a mark that is no slot."""
        cut = _MARK.split(text)
        if not all(map(_SIGNS.isdisjoint, cut[::2])):
            raise NotPlain
        return Parts(cut[::2], [self._fills[int(at)] for at in cut[1::2]], is_html)


@dataclass(frozen=True, slots=True)
class Parts:
    """A text with slots: one more constant part than slots."""

    constant: Sequence[str]
    fills: Sequence[Fill]
    is_html: bool = False

    def texts(self, values: SlotValues, words: Words) -> list[str]:
        """Return the texts of the slots, escaped in HTML."""
        texts = [fill(values, words) for fill in self.fills]
        return [escape(text) for text in texts] if self.is_html else texts

    def joined(self, texts: Sequence[str]) -> str:
        return _joined(self.constant, texts)

    def filled(self, values: SlotValues, words: Words) -> str:
        return _joined(self.constant, self.texts(values, words))


class EncodedLines:
    """A text with slots in quoted-printable. Long runs of lines without slots are encoded once."""

    def __init__(self, parts: Parts) -> None:
        self._pieces: list[tuple[bytes, Sequence[str], int]] = []
        """Encoded lines, then the constant parts of lines with slots, and the number of the first of these slots."""
        done, lines, first = b"", [""], 0
        for at, constant in enumerate(parts.constant):
            if at:
                lines.append("")
            begin, end = constant.find("\n") + 1, constant.rfind("\n") + 1
            if end - begin < _WORTH_A_PIECE:
                lines[-1] += constant
                continue
            lines[-1] += constant[:begin]
            self._pieces.append((done, lines, first))
            done, lines, first = quoted_printable(constant[begin:end]), [constant[end:]], at
        self._pieces.append((done, lines, first))

    def filled(self, texts: Sequence[str]) -> bytes:
        written: list[bytes] = []
        for done, lines, first in self._pieces:
            slots = len(lines) - 1
            written += (done, quoted_printable(_joined(lines, texts[first : first + slots]) if slots else lines[0]))
        return b"".join(written)


def _joined(constant: Sequence[str], texts: Sequence[str]) -> str:
    both = [""] * (len(constant) + len(texts))
    both[::2], both[1::2] = constant, texts
    return "".join(both)


class _SlotWords:
    """The functions of `Words` for slots."""

    def __init__(self, slots: Slots, words: Words) -> None:
        self._slots = slots
        self._words = words

    def money(self, money: _Opaque | None) -> Slot | None:
        return self._formatted("money", money)

    def day(self, at: _Opaque | None) -> Slot | None:
        return self._formatted("day", at)

    def moment(self, at: _Opaque | None) -> Slot | None:
        return self._formatted("moment", at)

    def month(self, year: int, month: int) -> str:
        return self._words.month(year, month)

    def count(self, number: int, unit: str) -> str:
        return self._words.count(number, unit)

    def _formatted(self, name: Literal["money", "day", "moment"], value: _Opaque | None) -> Slot | None:
        if value is None:
            return None
        if not isinstance(value, _Opaque):
            raise NotPlain
        field, key = value.field, f"{name} {value.field}"

        def fill(values: SlotValues, words: Words) -> str:
            if (text := values.get(key)) is None:
                text = values[key] = getattr(words, name)(values[field])
            return str(text)

        return self._slots.of(fill)


Shape = tuple[Any, ...]


def shape_of(data: MailData, extra: Mapping[str, str | None]) -> Shape | None:
    """Return what two mails of a template and a locale have to agree in. None if the data has values without slots."""
    if not all(text is None or _is_clean(text) for text in extra.values()):
        return None
    shape: list[Any] = [text is None for text in extra.values()]
    groups: dict[object, int] = {}
    values = data.__dict__
    for name, is_fixed in _fields(type(data)):
        value = values[name]
        if is_fixed or value is None or isinstance(value, int):
            shape.append((type(value), value))
        elif isinstance(value, str) and _is_clean(value):
            shape.append((str, groups.setdefault(value, len(groups))))
        elif isinstance(value, Money):
            shape.append((Money, groups.setdefault((value.amount, value.currency), len(groups))))
        elif isinstance(value, datetime):
            shape.append((datetime, groups.setdefault(value, len(groups))))
        else:
            return None
    return tuple(shape)


def slotted(slots: Slots, data: MailData, extra: Mapping[str, str | None], shape: Shape) -> dict[str, object]:
    """Return the values for the templates: slots, and what is part of the shape."""
    values: dict[str, object] = {}
    for (name, is_fixed), (_, group) in zip(_fields(type(data)), shape[len(extra) :], strict=True):
        value = getattr(data, name)
        if is_fixed or value is None or isinstance(value, int):
            values[name] = value
        else:
            values[name] = slots.field(name, group) if isinstance(value, str) else _Opaque(name, group)
    return values | {name: text if text is None else slots.field(name) for name, text in extra.items()}


def filling(data: MailData, extra: Mapping[str, str | None]) -> SlotValues:
    """Return the values by which the slots of a mail are filled."""
    return {**data.__dict__, **extra}


def _is_clean(text: str) -> bool:
    """Whether the text is one line without white space at its ends, so that nothing around it can change it."""
    return text.isprintable() and bool(text) and text[0] != " " and text[-1] != " "


@lru_cache(maxsize=256)
def shown_fields(kind: type[MailData]) -> Sequence[str]:
    """Return the fields that templates get: all but those for the check before sending (`exclude`)."""
    return [name for name, field in kind.model_fields.items() if not field.exclude]


@lru_cache(maxsize=256)
def _fields(kind: type[MailData]) -> Sequence[tuple[str, bool]]:
    """Return the fields that templates get, and whether one has a fixed set of words."""
    return [(name, _has_literal(kind.model_fields[name].annotation)) for name in shown_fields(kind)]


def _has_literal(annotation: object) -> bool:
    return get_origin(annotation) is Literal or any(map(_has_literal, get_args(annotation)))
