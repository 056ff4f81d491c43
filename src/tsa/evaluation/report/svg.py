"""Small charts as SVG text, so that the report needs no JavaScript library.

Colours are CSS classes (`one`, `two`, `muted`), so that a page can be light or dark. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 28, 46
_MAX_TICKS = 6

Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line: x and y of equal length. style: one, two, muted or fraud, which differ in hue and in dashes."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "one"
    filled: bool = False
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Label and range of an axis. log: powers of ten; values below `low`, which must be above 0, are drawn at `low`.
    labels: text in place of numbers."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    percent: bool = False
    integers: bool = False
    labels: Sequence[str] | None = None


def chart(identifier: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """One chart with axes. A screen reader reads title and description."""
    across = _scale(x, LEFT, WIDTH - RIGHT)
    up = _scale(y, HEIGHT - BOTTOM, TOP)
    parts = [_grid_y(y, up), _grid_x(x, across), *(_draw(one, across, up) for one in series), _axis_labels(x, y)]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{id}-t {id}-d">'
        '<title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, title, description, Markup("").join(parts), id=identifier)


def interval_bar(value: float | None, low: float | None, high: float | None, scale: float = 1.0) -> Markup:
    """A bar from 0 to scale: a dot at the value, a line over its interval. The number itself is next to it as text."""
    if value is None:
        return Markup("")
    left, middle, right = (
        2 + 76 * min(1.0, max(0.0, (v if v is not None else value) / scale)) for v in (low, value, high)
    )
    return Markup(
        '<svg class="bar" viewBox="0 0 80 12" aria-hidden="true"><path class="rail" d="M2 6H78"/>'
        '<path class="span" d="M{} 6H{}"/><circle class="dot" cx="{}" cy="6" r="3"/></svg>'
    ).format(_n(left), _n(right), _n(middle))


def ticks(low: float, high: float, max_ticks: int = _MAX_TICKS, *, integers: bool = False) -> list[float]:
    """At most `max_ticks` round numbers within [low, high]."""
    if not high > low:
        return [low]
    for power in count(math.floor(math.log10((high - low) / max_ticks))):
        for factor in (1, 2, 5):
            step = factor * 10.0**power
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < max_ticks and (step >= 1 or not integers):
                return [k * step for k in range(first, last + 1)]
    raise AssertionError("unreachable: steps grow without end")


def tick_label(value: float, step: float, axis: Axis) -> str:
    """A tick as text, with the digits that its step needs."""
    if axis.percent:
        value, step = value * 100, step * 100
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    if abs(value) >= 10_000:
        return f"{value / 1e3:g}k"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    return f"{value:.{digits}f}" + ("%" if axis.percent else "")


def _scale(axis: Axis, start: float, end: float) -> Scale:
    low, high = (math.log10(axis.low), math.log10(axis.high)) if axis.log else (axis.low, axis.high)
    span = (high - low) or 1.0

    def to_pixels(value: float) -> float:
        position = ((math.log10(max(value, axis.low)) if axis.log else value) - low) / span
        return start + (end - start) * min(1.0, max(0.0, position))

    return to_pixels


def _tick_values(axis: Axis) -> list[tuple[float, str]]:
    if axis.labels is not None:
        every = math.ceil(len(axis.labels) / _MAX_TICKS)
        return [(float(i), label) for i, label in enumerate(axis.labels) if i % every == 0]
    if axis.log:
        powers = range(math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9) + 1)
        every = math.ceil(len(powers) / _MAX_TICKS)
        return [(10.0**p, tick_label(10.0**p, min(10.0**p, 1.0), axis)) for p in powers if p % every == 0]
    values = ticks(axis.low, axis.high, integers=axis.integers)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    return [(value, tick_label(value, step, axis)) for value in values]


def _grid_y(axis: Axis, up: Scale) -> Markup:
    line = Markup('<path class="grid" d="M{} {}H{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>')
    return Markup("").join(
        line.format(LEFT, _n(up(value)), WIDTH - RIGHT, LEFT - 6, _n(up(value) + 4), label)
        for value, label in _tick_values(axis)
    )


def _grid_x(axis: Axis, across: Scale) -> Markup:
    bottom = HEIGHT - BOTTOM
    line = Markup('<path class="axis" d="M{} {}v5"/><text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>')
    drawn = [
        line.format(_n(across(value)), bottom, _n(across(value)), bottom + 18, label)
        for value, label in _tick_values(axis)
    ]
    return Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, WIDTH - RIGHT) + Markup("").join(drawn)


def _axis_labels(x: Axis, y: Axis) -> Markup:
    return Markup(
        '<text class="label" x="{}" y="{}" text-anchor="end">{}</text><text class="label" x="4" y="14">{}</text>'
    ).format(WIDTH - RIGHT, HEIGHT - 8, x.label, y.label)


def _draw(series: Series, across: Scale, up: Scale) -> Markup:
    points = [(_n(across(x)), _n(up(y))) for x, y in zip(series.x, series.y, strict=True)]
    if not points:
        return Markup("")
    line = " ".join(f"{x} {y}" for x, y in points)
    drawn = Markup("")
    if series.filled:
        bottom = HEIGHT - BOTTOM
        shape = f"M{points[0][0]} {bottom}L{line}L{points[-1][0]} {bottom}Z"
        drawn += Markup('<path class="fill {}" d="{}"/>').format(series.style, shape)
    drawn += Markup('<path class="line {}" d="M{}"/>').format(series.style, line)
    if series.dots:
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>')
        drawn += Markup("").join(dot.format(series.style, x, y) for x, y in points)
    return drawn


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
