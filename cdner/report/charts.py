"""Bars and curves as inline SVG, drawn for the width of a phone and enlarged on wider screens.

Colours come from the page's style (``.c1`` to ``.c6``), so that they follow light, dark and print; every chart says
what it shows in words too, and each mark has a title. What the charts read off a report is public: figures use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from cdner.report.content import Ablation, ErrorShare, Reliability, Report, Where, name_of
from cdner.report.markup import Element, Node, element
from cdner.report.tables import setting_name

_WIDTH = 440  # user units
_MANY = 4  # figures of a kind shown unfolded
N_SETTINGS = 3  # of figure 6
# Which settings figure 6 has where an experiment has more, the most wanted first, and the order they stand in.
_WANTED = ("without_all", "full", "fused", "full_fused", "without_backward", "without_source", "llm_only")
_ERROR_SETTINGS = (
    "without_all",
    "without_backward",
    "full",
    "fused",
    "full_fused",
    "without_source",
    "llm_only",
)
Place = tuple[str, tuple[tuple[str, str], ...], str, str]  # a line of the leaderboard without its setting


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    f1: float
    deviation: float | None


@dataclass(frozen=True, slots=True)
class Curves:
    """F1 over one numeric axis of a matrix, a line a setting."""

    title: str
    axis: str
    lines: Mapping[str, tuple[Point, ...]]  # by setting, points by x


def place_of(where: Where) -> Place:
    return where.study, where.axes, where.domain, where.split


def ablation_groups(report: Report) -> list[list[Ablation]]:
    """Bars that belong side by side: the same cells and sentences, in the experiment's order of settings."""
    ranked = sorted(report.ablations, key=lambda bar: place_of(bar.where))
    return [list(group) for _, group in groupby(ranked, key=lambda bar: place_of(bar.where))]


def error_groups(report: Report) -> list[list[list[ErrorShare]]]:
    """Figure 6: per cells and sentences up to three settings, each with "*" and all its types."""
    groups: dict[Place, dict[str, list[ErrorShare]]] = {}
    for row in report.errors_per_type:
        groups.setdefault(place_of(row.where), {}).setdefault(row.where.setting, []).append(row)
    return [[settings[name] for name in _chosen(settings)] for settings in groups.values()]


def _chosen(settings: Mapping[str, object]) -> list[str]:
    if len(settings) <= N_SETTINGS:
        return list(settings)
    wanted = [name for name in _WANTED if name in settings]
    chosen = [*wanted, *(name for name in settings if name not in wanted)][:N_SETTINGS]
    ordered = [name for name in _ERROR_SETTINGS if name in chosen]
    return [*ordered, *(name for name in chosen if name not in ordered)]


def size_curves(report: Report) -> list[Curves]:
    """One chart a numeric axis with two values or more, other axes and sentences held fixed."""
    groups: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for score in report.scores:
        for name, value in score.where.axes:
            if not value.replace(".", "", 1).isdigit():
                continue
            rest = tuple(axis for axis in score.where.axes if axis[0] != name)
            place = name_of(Where(score.where.study, rest, score.where.domain, score.where.split, ""))
            point = Point(float(value), score.f1, score.deviation)
            groups.setdefault((place, name), {}).setdefault(score.where.setting, []).append(point)
    return [
        Curves(
            place, axis, {name: tuple(sorted(points, key=lambda p: p.x)) for name, points in lines.items()}
        )
        for (place, axis), lines in groups.items()
        if len({point.x for points in lines.values() for point in points}) > 1
    ]


# --- drawing ---------------------------------------------------------------------------------------------


def ablation_bars(report: Report) -> list[Node]:
    """A bar a setting with its 95 % interval."""
    longest = max((bar.high for bar in report.ablations), default=0.0) or 1.0  # one scale for all figures
    return _few([_ablation_figure(group, longest) for group in ablation_groups(report)])


def _ablation_figure(bars: Sequence[Ablation], longest: float) -> Element:
    scale = (_WIDTH - 70) / longest
    marks: list[Node] = []
    for number, bar in enumerate(bars):
        y = 38 * number
        name = setting_name(bar.where.setting)
        said = f"{name}: {100 * bar.f1:.2f} ({100 * bar.low:.2f} to {100 * bar.high:.2f})"
        marks += [
            element("text", name, x=0, y=y + 12, class_="label"),
            element(
                "rect",
                element("title", said),
                x=0,
                y=y + 17,
                width=_n(bar.f1 * scale),
                height=14,
                rx=2,
                class_="c1",
            ),
            _whisker(bar.low * scale, bar.high * scale, y + 24),
            element("text", f"{100 * bar.f1:.2f}", x=_n(bar.high * scale + 8), y=y + 28, class_="value"),
        ]
    title = f"F1 with 95 % intervals: {name_of(bars[0].where)}"
    return _figure(title, marks, height=38 * len(bars) + 4)


def _whisker(low: float, high: float, y: float) -> Element:
    path = f"M{_n(low)} {y - 4}v8M{_n(low)} {y}H{_n(high)}M{_n(high)} {y - 4}v8"
    return element("path", d=path, class_="whisker")


def error_bars(report: Report) -> list[Node]:
    """Figure 6: stacked bars of a type's gold entities that were not got right, one a setting."""
    return _few([_error_figure(group) for group in error_groups(report)])


def _error_figure(settings: Sequence[Sequence[ErrorShare]]) -> Element:
    names = [setting_name(rows[0].where.setting) for rows in settings]
    left, row_height = 132, 12
    scale = _WIDTH - left - 4
    marks: list[Node] = []
    y = 0.0
    for rows in zip(*settings, strict=True):
        name = "all" if rows[0].entity_type == "*" else rows[0].entity_type
        middle = y + row_height * len(rows) / 2 + 4
        marks.append(element("text", name, x=left - 46, y=_n(middle), class_="label end"))
        for number, row in enumerate(rows):
            marks.append(element("text", str(number + 1), x=left - 30, y=_n(y + 9), class_="small"))
            marks += _stack(row, names[number], x=left - 18, y=y, scale=scale)
            y += row_height
        y += 7
    legend = element(
        "p",
        *(element("span", f"{number}. {name}", class_="key") for number, name in enumerate(names, start=1)),
        *(
            element("span", element("i", class_=f"swatch {colour}"), label, class_="key")
            for label, colour in (("wrong type", "c2"), ("wrong boundary", "c3"), ("not found", "c4"))
        ),
        class_="legend",
    )
    title = f"Errors per type, in shares of its gold entities: {name_of(settings[0][0].where)}"
    return _figure(title, marks, height=y, legend=legend)


def _stack(row: ErrorShare, setting: str, *, x: float, y: float, scale: float) -> list[Node]:
    marks: list[Node] = [element("rect", x=x, y=_n(y), width=_n(scale), height=10, class_="track")]
    parts = (
        ("wrong type", row.n_misclassified, "c2"),
        ("wrong boundary", row.n_boundary, "c3"),
        ("not found", row.n_not_found, "c4"),
    )
    for label, n, colour in parts:
        if n:
            width = scale * n / row.n_gold
            said = f"{row.entity_type}, {setting}: {label} {n} of {row.n_gold}"
            marks.append(
                element(
                    "rect",
                    element("title", said),
                    x=_n(x),
                    y=_n(y),
                    width=_n(width),
                    height=10,
                    class_=colour,
                )
            )
            x += width
    return marks


def curves(report: Report) -> list[Node]:
    """F1 over sample size or any other numeric axis, whiskers one deviation over seeds."""
    return _few([_curve_figure(chart) for chart in size_curves(report)])


def _curve_figure(chart: Curves) -> Element:
    points = [point for line in chart.lines.values() for point in line]
    spans = [point.f1 + sign * (point.deviation or 0.0) for point in points for sign in (-1, 1)]
    left, top, width, height = 42.0, 8.0, _WIDTH - 60.0, 200.0
    x_low, x_high = min(p.x for p in points), max(p.x for p in points)
    y_low, y_high = max(0.0, min(spans) - 0.02), max(spans) + 0.02

    def x(value: float) -> float:
        return left + width * (value - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return top + height * (1 - (value - y_low) / (y_high - y_low))

    marks: list[Node] = []
    for value in _ticks(y_low, y_high):
        marks.append(element("path", d=f"M{left} {_n(y(value))}h{width}", class_="grid"))
        marks.append(element("text", f"{100 * value:g}", x=left - 6, y=_n(y(value) + 4), class_="small end"))
    for tick in sorted({p.x for p in points}):
        marks.append(element("text", f"{tick:g}", x=_n(x(tick)), y=top + height + 18, class_="small middle"))
    marks.append(element("text", chart.axis, x=left + width, y=top + height + 34, class_="small end"))
    keys: list[Node] = []
    for number, (setting, line) in enumerate(chart.lines.items()):
        colour = f"c{number % 6 + 1}"
        name = setting_name(setting)
        keys.append(element("span", element("i", class_=f"swatch {colour}"), name, class_="key"))
        drawn = "M" + "L".join(f"{_n(x(p.x))} {_n(y(p.f1))}" for p in line)
        marks.append(element("path", d=drawn, class_=f"line {colour}"))
        for p in line:
            if p.deviation:
                bar = f"M{_n(x(p.x))} {_n(y(p.f1 - p.deviation))}V{_n(y(p.f1 + p.deviation))}"
                marks.append(element("path", d=bar, class_=f"line {colour}"))
            said = f"{name}, {chart.axis} {p.x:g}: {100 * p.f1:.2f}"
            marks.append(
                element("circle", element("title", said), cx=_n(x(p.x)), cy=_n(y(p.f1)), r=4, class_=colour)
            )
    title = f"F1 by {chart.axis}: {chart.title}"
    return _figure(title, marks, height=top + height + 40, legend=element("p", *keys, class_="legend"))


def reliability_diagrams(report: Report) -> list[Node]:
    """A point a bin: how often types of about this probability are right. On the diagonal it means what it says."""
    return _few([_reliability_figure(found) for found in report.reliability])


def _reliability_figure(found: Reliability) -> Element:
    left, top, size = 42.0, 8.0, 240.0
    most = max((one.n for one in found.bins), default=1)
    marks: list[Node] = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + size * value, top + size * (1 - value)
        marks.append(element("path", d=f"M{left} {_n(y)}h{size}", class_="grid"))
        marks.append(element("text", f"{100 * value:g}", x=left - 6, y=_n(y + 4), class_="small end"))
        marks.append(element("text", f"{100 * value:g}", x=_n(x), y=top + size + 18, class_="small middle"))
    marks.append(element("path", d=f"M{left} {top + size}L{left + size} {top}", class_="whisker"))
    marks.append(element("text", "probability, %", x=left + size, y=top + size + 34, class_="small end"))
    places = [(left + size * one.mean_probability, top + size * (1 - one.share_right)) for one in found.bins]
    drawn = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)
    marks.append(element("path", d=drawn, class_="line c1"))
    for (x, y), one in zip(places, found.bins, strict=True):
        said = (
            f"{one.n} mentions with a probability of {100 * one.low:.1f} to {100 * one.high:.1f} %, "
            f"on average {100 * one.mean_probability:.1f} %: {100 * one.share_right:.1f} % right"
        )
        radius = 3 + 6 * (one.n / most) ** 0.5  # its area grows with the mentions
        marks.append(element("circle", element("title", said), cx=_n(x), cy=_n(y), r=_n(radius), class_="c1"))
    where = f"{setting_name(found.where.setting)}, {name_of(found.where)}"
    title = (
        f"Types right by their probability: {where}, {found.n_mentions} mentions, "
        f"expected calibration error {100 * found.error:.1f} %"
    )
    return _figure(title, marks, height=top + size + 40)


def _ticks(low: float, high: float) -> list[float]:
    """Round values in percent within the range, six at most."""
    step = next((size for size in (1, 2, 5, 10) if 100 * (high - low) / size <= 6), 20)
    first = -int(-100 * low // step)
    return [count * step / 100 for count in range(first, int(100 * high // step) + 1)]


def _figure(title: str, marks: Sequence[Node], *, height: float, legend: Node = None) -> Element:
    drawing = element("svg", *marks, viewBox=f"0 0 {_WIDTH} {_n(height)}", role="img", aria_label=title)
    return element("figure", element("figcaption", title), legend, drawing)


def _few(figures: Sequence[Element]) -> list[Node]:
    """Side by side; what goes beyond a screenful is folded."""
    if not figures:
        return []
    shown = element("div", *figures[:_MANY], class_="figures")
    if len(figures) <= _MANY:
        return [shown]
    rest = element("div", *figures[_MANY:], class_="figures")
    return [
        shown,
        element("details", element("summary", f"{len(figures) - _MANY} more"), rest, class_="folded"),
    ]


def _n(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
