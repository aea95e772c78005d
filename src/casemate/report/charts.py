# SPDX-License-Identifier: Apache-2.0
"""Charts as inline SVG: six marks (line, band, dot, bar, cell, text) on scales, and the kinds of chart made of them.

A chart is a pure function of numbers and texts; what is drawn of a report is chosen in figures.py. Each stands for
itself in print and in grey: a series differs by dash and by shape of its dot, hue only helps (the colours are
variables of the page). All are 340 units wide, the width of a telephone, so that their text is never scaled down.
Every text is freed of invisible characters, cut to the room it has, and escaped; every point is moved by rounding
and thinning by at most half a pixel. A number that is not finite leaves a gap.
"""

from __future__ import annotations

import heapq
import html
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from casemate.report import words
from casemate.report.catalogue import LANGUAGES, Both, as_is

WIDTH = 340.0
SIZE = 11.0  # of the text
THIN, MOST = 0.4, 500  # pixels (rounding to a tenth takes 0.07 more), and points of a line
STYLES = ("s0", "s1", "s2", "s3")  # before (muted, dashed), after (accent), and two more
_PLOT = 190.0  # height
NOTHING = as_is("")
Numbers = Sequence[float | None]
Dot = tuple[float, float | None, float | None, float | None]  # place, value, low, high
Grid = tuple[tuple[Both, ...], tuple[tuple[Both, ...], ...]]  # head and rows of the numbers of a chart


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its title, how to read it, what it says, and (where no table of the page has them) its numbers."""

    title: Both
    guide: Both
    says: Both = field(default_factory=lambda: NOTHING)
    height: float
    body: str
    forbidden: str = ""  # a region that is hatched, as path data
    numbers: Grid | None = None

    def svg(self, identity: str) -> str:
        """Return the SVG element; ``identity``-c and ``identity``-d are elements of the page that name and tell it.

        A title of its own would be shown in one language at the pointer, and no reader hears a second description.
        """
        region = (
            f'<pattern id="{identity}-h" width="5" height="5" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><path class="hatch" d="M0,0V5"/></pattern>'
            f'<path class="bound" fill="url(#{identity}-h)" d="{self.forbidden}"/>'
            if self.forbidden
            else ""
        )
        size = f'viewBox="0 0 {px(WIDTH)} {px(self.height)}" width="{px(WIDTH)}" height="{px(self.height)}"'
        named = f'role="img" aria-labelledby="{identity}-c" aria-describedby="{identity}-d"'
        return f"<svg {size} {named}>{region}{self.body}</svg>"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve with an optional band, and single measured points (x, value, low, high) that belong to it."""

    name: Both
    style: str
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis measures, from where to where; ``percent`` writes shares as percentages."""

    title: Both
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def on(self, start: float, end: float) -> Scale:
        """Lay the axis between two pixels."""
        return Scale(low=self.low, high=self.high, start=start, end=end, log=self.log)

    def label(self, value: float) -> str:
        """Write a tick."""
        return f"{100 * value:.6g} %" if self.percent else words.number(float(value))


# ---------------------------------------------------------------------- scales


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The way from values to pixels, straight or by powers of ten; what lies beyond an end is drawn at that end.

    >>> Scale(low=0.01, high=1.0, start=0.0, end=100.0, log=True).at(0.1)
    50.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float | None) -> float | None:
        """Return the pixel; None for what has no place: not finite, or not positive where powers are drawn."""
        if value is None or not math.isfinite(value) or (self.log and value <= 0):
            return None
        held = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(held / self.low) / math.log(self.high / self.low)
        else:
            share = (held - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values between the ends: powers of ten, or at most six multiples of 1, 2 or 5."""
        if self.log:
            ends = math.log10(self.low) - 1e-9, math.log10(self.high) + 1e-9
            found = [10.0**k for k in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)]
            return found if len(found) > 2 else sorted({self.low, *found, self.high})
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def around(values: Iterable[float | None], *, zero: bool = True) -> tuple[float, float]:
    """Return round ends that hold all finite values (and zero).

    >>> around([0.07, 0.93]), around([-0.2, 0.011]), around([])
    ((0.0, 1.0), (-0.2, 0.05), (0.0, 1.0))
    """
    found = [value for value in values if value is not None and math.isfinite(value)] + [0.0] * zero
    low, high = min(found, default=0.0), max(found, default=1.0)
    if not high > low:
        return (low, low + 1.0) if low >= 0 else (low, 0.0)
    step = _step(high - low)
    return math.floor(low / step + 1e-9) * step, round(math.ceil(high / step - 1e-9) * step, 12)


def _step(width: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that divides ``width`` into at most five."""
    unit = 10.0 ** math.floor(math.log10(width / 5))
    return next(k * unit for k in (1.0, 2.0, 5.0, 10.0) if width / (k * unit) <= 5 + 1e-9)


# ---------------------------------------------------------------------- the six marks


def line(x: Scale, y: Scale, xs: Numbers, ys: Numbers, style: str) -> str:
    """Draw a line through points; it breaks where one is missing, and a point alone becomes a dot."""
    out = []
    for run in _runs([x.at(value) for value in xs], [_grounded(y, value) for value in ys]):
        kept = thinned(run)
        if len(kept) == 1:
            out.append(f'<circle class="{style} fill" cx="{px(kept[0][0])}" cy="{px(kept[0][1])}" r="2"/>')
        else:
            out.append(f'<path class="line {style}" d="M{_points(kept)}"/>')
    return "".join(out)


def band(x: Scale, y: Scale, xs: Numbers, low: Numbers, high: Numbers, style: str) -> str:
    """Draw the area between two lines."""
    data = area(x, y, xs, low, high)
    return f'<path class="band {style}" d="{data}"/>' if data else ""


def area(x: Scale, y: Scale, xs: Numbers, low: Numbers, high: Numbers) -> str:
    """Return path data of the area between two lines."""
    out = []
    across = [x.at(value) for value in xs]
    sides = [[_grounded(y, value) for value in side] for side in (low, high)]
    for run in _runs(across, *sides):
        top, foot = (thinned(np.stack([run[:, 0], run[:, side]], axis=1)) for side in (2, 1))
        out.append(f"M{_points(top)} {_points(foot[::-1])}Z")
    return "".join(out)


def dot(x: float, y: float, style: str) -> str:
    """Draw a value: a hollow circle before, a full one after, then a triangle and a square."""
    if style == "s2":
        return f'<path class="{style} fill" d="M{px(x)},{px(y - 4.2)}L{px(x + 4)},{px(y + 3)}H{px(x - 4)}Z"/>'
    if style == "s3":
        return f'<rect class="{style} fill" x="{px(x - 3.2)}" y="{px(y - 3.2)}" width="6.4" height="6.4"/>'
    full = "hollow" if style == "s0" else "fill"
    return f'<circle class="{style} {full}" cx="{px(x)}" cy="{px(y)}" r="3.6"/>'


def bar(left: float, right: float, y: float, *, height: float = 9.0, hollow: bool = False) -> str:
    """Draw a bar between two pixels; hollow where nothing was shown."""
    start, size = min(left, right), abs(right - left)
    kind = "bar open" if hollow else "bar"
    return f'<rect class="{kind}" x="{px(start)}" y="{px(y)}" width="{px(size)}" height="{px(height)}"/>'


def cell(x: float, y: float, width: float, height: float, share: float) -> str:
    """Draw a field of a matrix, darker the nearer ``share`` is to 1 (in nine steps)."""
    level = round(9 * min(max(share, 0.0), 1.0)) if math.isfinite(share) else 0
    size = f'width="{px(width)}" height="{px(height)}"'
    return f'<rect class="cell c{level}" x="{px(x)}" y="{px(y)}" {size}/>'


def text(
    x: float, y: float, words_: Both | str, *, anchor: str = "", room: float = WIDTH, kind: str = ""
) -> str:
    """Write a text, in every language where these differ, cut to ``room``; ``anchor`` is middle or end."""
    pair = as_is(words_) if isinstance(words_, str) else words_
    cut = {lang: shortened(pair[lang], room) for lang in LANGUAGES}
    place = f'x="{px(x)}" y="{px(y)}"' + (f' text-anchor="{anchor}"' if anchor else "")
    place += f' class="{kind}"' if kind else ""
    if len(set(pair.values())) == 1:  # not of what is left: no name may change the structure
        return f"<text {place}>{html.escape(cut['en'])}</text>"
    return "".join(f'<text lang="{lang}" {place}>{html.escape(cut[lang])}</text>' for lang in LANGUAGES)


def wide(shown: str) -> float:
    """Return about how wide a text is, in pixels, rather more than less."""
    full = sum(unicodedata.east_asian_width(c) in "WF" for c in shown)
    thin = sum(c in " .,:;|!'()[]ijlIt" for c in shown)
    broad = sum(c in "mMW@%\u2026" for c in shown)
    large = sum(c in "w+<=>~\u2212\u2192" or (c.isupper() and c not in "MWI") for c in shown)
    rest = 0.63 * (len(shown) - full - thin - broad - large)  # a digit of the widest usual font
    return SIZE * (full + 0.36 * thin + broad + 0.84 * large + rest)


def shortened(shown: str, room: float) -> str:
    """Return a text freed of what cannot be seen, and cut so that it fits.

    >>> shortened("a long name of a column", 60.0)
    'a long n…'
    """
    clean = words.visible(shown, 120)
    if wide(clean) <= room:
        return clean
    while clean and wide(clean) + SIZE > room:
        clean = clean[:-1]
    return f"{clean.rstrip()}\u2026"


def thinned(points: np.ndarray) -> np.ndarray:
    """Leave out points (n, 2) that lie within ``THIN`` pixels of the line through those kept (Douglas-Peucker).

    What matters most is kept first: a line that goes to and fro without end is drawn by its ``MOST`` farthest points.
    """
    kept = {0, len(points) - 1}
    spans = [_farthest(points, 0, len(points) - 1)]
    while spans and len(kept) < MOST:
        far, first, middle, last = heapq.heappop(spans)
        if -far > THIN:
            kept.add(middle)
            heapq.heappush(spans, _farthest(points, first, middle))
            heapq.heappush(spans, _farthest(points, middle, last))
    return np.asarray(points[sorted(kept)])


def _farthest(points: np.ndarray, first: int, last: int) -> tuple[float, int, int, int]:
    """Return minus the distance of the point farthest from the line between two others, and the three places."""
    if last - first < 2:
        return 0.0, first, first, last
    start, way = points[first], points[last] - points[first]
    inner = points[first + 1 : last] - start  # (k, 2)
    share = np.clip(inner @ way / max(float(way @ way), 1e-12), 0.0, 1.0)
    far = np.hypot(*(inner - share[:, None] * way).T)
    middle = int(far.argmax())
    return -float(far[middle]), first, first + 1 + middle, last


def _grounded(y: Scale, value: float | None) -> float | None:
    """Return the pixel of a height: on an axis of powers nothing (0) is drawn at its foot."""
    return y.start if y.log and value is not None and value <= 0 else y.at(value)


def _runs(*sides: Sequence[float | None]) -> Iterator[np.ndarray]:
    """Yield the stretches (k, sides) without a missing number."""
    run: list[tuple[float, ...]] = []
    for values in zip(*sides, strict=True):
        whole = tuple(value for value in values if value is not None)
        if len(whole) == len(values):
            run.append(whole)
        elif run:
            yield np.array(run)
            run = []
    if run:
        yield np.array(run)


def px(value: float) -> str:
    """Write a pixel to a tenth.

    >>> px(3.04), px(-0.01), px(2.25)
    ('3', '0', '2.2')
    """
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0", int(abs(value) < 0.05))


def _points(points: Iterable[Sequence[float]]) -> str:
    return " ".join(f"{px(x)},{px(y)}" for x, y in points)


Stroke = tuple[float, float, float, float]  # x and y of both ends


def rule(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    """Draw one straight stroke between two pixels."""
    return rules([(x1, y1, x2, y2)], kind)


def rules(strokes: Iterable[Stroke], kind: str = "axis") -> str:
    """Draw straight strokes of one kind together: a grid is one mark.

    >>> rules([(0, 5, 20, 5), (3, 0, 3, 9.5), (0, 0, 1, 1)])
    '<path class="axis" d="M0,5H20M3,0V9.5M0,0L1,1"/>'
    """
    parts = []
    for ends in strokes:
        x1, y1, x2, y2 = map(px, ends)
        parts.append(f"M{x1},{y1}" + (f"H{x2}" if y1 == y2 else f"V{y2}" if x1 == x2 else f"L{x2},{y2}"))
    return f'<path class="{kind}" d="{"".join(parts)}"/>' if parts else ""


# ---------------------------------------------------------------------- the kinds of chart


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The most members (y) that anybody can recognise at each false-positive rate (x), and who says so."""

    name: Both
    x: tuple[float, ...]
    y: tuple[float, ...]

    def since(self, low: float) -> tuple[list[float], list[float]]:
        """Return the part from ``low`` on, beginning there if it is known there.

        >>> Bound(name=as_is("b"), x=(0.01, 0.1, 1.0), y=(0.03, 0.3, 1.0)).since(0.05)[0]
        [0.05, 0.1, 1.0]
        """
        places = sorted({max(x, low) for x in self.x if x >= low or low <= self.x[-1]})
        heights = np.interp(np.log(places), np.log(self.x), self.y)
        return places, heights.tolist()


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves on two axes, with the region that a bound rules out and the line of guessing, if there are such."""

    title: Both
    guide: Both
    says: Both = field(default_factory=lambda: NOTHING)
    series: Sequence[Series]
    x: Axis
    y: Axis
    guess: Both | None = None
    bound: Bound | None = None
    numbers: Grid | None = None

    def chart(self) -> Chart:
        """Draw it: legend, grid, the region ruled out, bands, lines, points."""
        entries = [(one.style, one.name) for one in self.series]
        entries += [("guess", self.guess)] if self.guess else []
        entries += [("bound", self.bound.name)] if self.bound else []
        entries = entries if len(entries) > 1 else []
        top = 15.0 * len(entries) + 24.0
        foot = top + _PLOT
        left = 10.0 + max(wide(self.y.label(tick)) for tick in self.y.on(0, 1).ticks()) + 14.0 * self.y.log
        across, up = self.x.on(left, WIDTH - 20.0), self.y.on(foot, top)
        parts = [*legend(entries), _grid(across, up, self.x, self.y)]
        if self.guess:
            parts.append(line(across, up, (self.x.low, 1.0), (self.x.low, 1.0), "guess"))
        parts += [band(across, up, s.x, s.low, s.high, s.style) for s in self.series if s.low and s.high]
        parts += [line(across, up, s.x, s.y, s.style) for s in self.series]
        for one in self.series:
            parts += _measured_points(across, up, one)
        forbidden = ""
        if self.bound:
            x, y = self.bound.since(self.x.low)
            ceiling = [self.y.high] * len(x)
            forbidden = area(across, up, x, y, ceiling)
            parts.append(line(across, up, x, y, "edge"))
        return Chart(
            title=self.title,
            guide=self.guide,
            says=self.says,
            height=foot + 34.0,
            body="".join(parts),
            forbidden=forbidden,
            numbers=self.numbers,
        )


def _measured_points(x: Scale, y: Scale, series: Series) -> Iterator[str]:
    for place, value, low, high in series.dots:
        spots = x.at(place), _grounded(y, value), _grounded(y, low), _grounded(y, high)
        across, middle, foot, top = spots
        if across is not None and middle is not None and foot is not None and top is not None:
            yield rule(across, foot, across, top, f"whisker {series.style}")
            yield dot(across, middle, series.style)


def legend(entries: Sequence[tuple[str, Both]]) -> Iterator[str]:
    """Write what each style means, one a line of 15 pixels."""
    for index, (style, name) in enumerate(entries):
        y = 15.0 * index + 7.0
        if style == "bound":
            yield f'<rect class="swatch" x="1" y="{px(y - 5)}" width="22" height="10"/>'
            yield rules([(x, y + 5, x + 8, y - 5) for x in (2.0, 8.0, 14.0)], "hatch")
        else:
            yield rule(1, y, 23, y, f"line {style}")
            yield "" if style == "guess" else dot(12, y, style)
        yield text(30, y + 4, name, room=WIDTH - 32)


def _grid(x: Scale, y: Scale, across: Axis, up: Axis) -> str:
    parts, strokes = [], []
    for tick in y.ticks():
        place = y.at(tick) or 0.0
        strokes.append((x.start, place, x.end, place))
        least = "≤ " if up.log and tick == up.low else ""  # what is less, nothing included, is drawn there
        parts.append(text(x.start - 6, place + 3.5, least + up.label(tick), anchor="end", kind="num"))
    for tick, shown in spaced(x, across):
        place = x.at(tick) or 0.0
        strokes.append((place, y.start, place, y.end))
        parts.append(text(place, y.start + 14, shown, anchor="middle", kind="num") if shown else "")
    parts.append(text(0, y.end - 9, up.title, kind="name"))
    parts.append(text(x.end, y.start + 28, across.title, anchor="end", kind="name"))
    return rules(strokes) + "".join(parts)


def spaced(scale: Scale, axis: Axis) -> list[tuple[float, str]]:
    """Return ticks with labels, from the right; a label that would touch the one before it stays unwritten."""
    out, free = [], math.inf
    for tick in reversed(scale.ticks()):
        shown, place = axis.label(tick), scale.at(tick) or 0.0
        half = wide(shown) / 2
        fits = place + half + 5 <= free
        free = place - half if fits else free
        out.append((tick, shown if fits else ""))
    return out


def three(value: float | None) -> float | None:
    """Return a number at the three digits that a picture needs.

    >>> three(0.123456)
    0.123
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")
