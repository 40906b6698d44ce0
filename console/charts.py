"""Charts as SVG, drawn on the server. Shapes have classes and no inline style. A table beside each has its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

_NO_VALUES = Markup('<p class="none">Nothing to draw yet.</p>')


def stacked(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], *, label: str, width: int = 720, height: int = 120
) -> Markup:
    """Returns one bar per row, with a part for each key from the bottom up. `label` is its accessible name."""
    most = max((sum(row[key] for key in keys) for row in rows), default=0)
    if not most:
        return _NO_VALUES
    step = width / len(rows)
    shapes = []
    for at, row in enumerate(rows):
        y = float(height)
        for key in keys:
            size = row[key] / most * (height - 14)
            if size <= 0:
                continue
            size = max(size, 1.5)
            y -= size
            shapes.append(_rect(at * step + step * 0.12, y, step * 0.76, size, f"c-{key}"))
    scale = _text(0, 10, f"{most:,}", "scale")
    return _svg(width, height, label, [_line(0, height - 0.5, width, height - 0.5), *shapes, scale])


def up_down(
    rows: Sequence[Mapping[str, Any]],
    gains: Sequence[str],
    losses: Sequence[str],
    *,
    label: str,
    name: str,
    open_name: str = "",
    width: int = 720,
    height: int = 220,
) -> Markup:
    """Returns gains above and losses below a line, one column per row, named by the row's `name`.

    The column of `open_name` can change: hatched.
    """
    up = max((sum(max(row[key], 0) for key in gains) for row in rows), default=0)
    down = max((sum(max(-row[key], 0) for key in losses) for row in rows), default=0)
    if not up + down:
        return _NO_VALUES
    unit = (height - 20) / (up + down)
    zero, step = 10 + up * unit, width / len(rows)
    bar = min(step * 0.7, 48)
    shapes = []
    for at, row in enumerate(rows):
        x, y = at * step + (step - bar) / 2, zero
        for key in gains:
            size = max(row[key], 0) * unit
            y -= size
            shapes += [_rect(x, y, bar, size, f"c-{key}")] if size else []
        y = zero
        for key in losses:
            size = max(-row[key], 0) * unit
            shapes += [_rect(x, y, bar, size, f"c-{key}")] if size else []
            y += size
        if row[name] == open_name:
            shapes.append(_rect(x, 0, bar, height, "hatch"))
        if at % (1 + len(rows) // 13) == 0:  # with more columns the names would overlap
            shapes.append(_text(x + bar / 2, height + 14, _month(str(row[name]), is_first=at == 0), "scale middle"))
    hatch = Markup(
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-line" width="2" height="6"/></pattern></defs>'
    )
    return _svg(width, height + 18, label, [hatch, *shapes, _line(0, zero, width, zero)])


def line(points: Sequence[float], *, label: str, width: int = 720, height: int = 64) -> Markup:
    """Returns values in equal steps as a line over a filled area, from 0 to the largest value."""
    if len(points) < 2:
        return _NO_VALUES
    most = max(max(points), 1)
    step = width / (len(points) - 1)
    at = [f"{index * step:.1f},{height - 2 - value / most * (height - 14):.1f}" for index, value in enumerate(points)]
    area = Markup('<polygon class="area" points="0,{} {} {},{}"/>').format(height, " ".join(at), width, height)
    drawn = Markup('<polyline class="stroke" points="{}"/>').format(" ".join(at))
    return _svg(width, height, label, [area, drawn, _text(0, 10, f"{most:,.0f}", "scale")])


def spark(ages: Sequence[float], *, label: str, span_s: float = 86_400.0, bars: int = 24) -> Markup:
    """Returns how things that are `ages` seconds old are spread over the last `span_s` seconds, the newest right."""
    counts = [0] * bars
    for age in ages:
        at = bars - 1 - int(age / span_s * bars)
        counts[max(at, 0)] += 1
    most = max(counts)
    width, height = bars * 4, 20
    shapes = [
        _rect(at * 4, height - max(count / most * height, 2), 3, max(count / most * height, 2), "c-dead")
        for at, count in enumerate(counts)
        if count
    ]
    return _svg(width, height, label, [_line(0, height - 0.5, width, height - 0.5), *shapes], "spark")


def heat(count: int, most: int) -> str:
    """Returns the class of a cell's shade, 0 to 4."""
    return f"heat-{0 if not count else min(4, 1 + int(count / max(most, 1) * 3.999))}"


def _month(name: str, *, is_first: bool) -> str:
    """Returns `2026-11` as `Nov`, the first one and each January with the year: `Jan 2027`. Other names stay."""
    try:
        month = datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return name
    return f"{month:%b %Y}" if is_first or month.month == 1 else f"{month:%b}"


def _svg(width: float, height: float, label: str, shapes: Sequence[Markup], kind: str = "chart") -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, label, Markup("").join(shapes)
    )


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        kind, round(x, 1), round(y, 1), round(width, 1), round(height, 1)
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, round(y1, 1), x2, round(y2, 1))


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, text)
