"""The report's charts as files for papers, PNG and SVG. The only owner of matplotlib, which is an extra.

What is drawn is what the page draws; no text is read as TeX, and a name of a file holds no name of a corpus as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cdner.errors import UsageError
from cdner.files import check_output, output
from cdner.report.charts import Curves, ablation_groups, error_groups, size_curves
from cdner.report.content import Ablation, ConfusionMap, ErrorShare, Report, name_of
from cdner.report.tables import setting_name
from cdner.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = ("png", "svg")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a corpus is one
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "cdner",  # the same figure is the same file
}
_ERROR_PARTS = (("wrong type", "#c2502a"), ("wrong boundary", "#dfa33d"), ("not found", "#8b949a"))
_BAR = "#2f7f95"
Draw = Callable[["Axes"], None]
Shown = TypeVar("Shown")


def write_figures(report: Report, folder: Path, *, force: bool = False) -> list[Path]:
    """Every chart as ``NUMBER-KIND-WHERE.png`` and ``.svg`` in the folder, which is made; the files in order.

    UsageError without matplotlib, and before anything is written where one of the files exists, unless forced. Other
    files in the folder stay.
    """
    demand_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    charts = [
        (_files(folder / f"{number:02}-{kind}-{_slug(place)}"), size, draw)
        for number, (kind, place, size, draw) in enumerate(_charts(report), start=1)
    ]
    for file in (file for files, _, _ in charts for file in files):
        check_output(file, force=force)
    for files, size, draw in charts:
        _write(files, size, draw, force=force)
    return [file for files, _, _ in charts for file in files]


def _files(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.{form}") for form in _FORMATS]


def demand_matplotlib() -> None:
    """UsageError that says how to get it, where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--figures needs matplotlib: pip install 'cdner[figures]'.") from error


def _charts(report: Report) -> Iterator[tuple[str, str, tuple[float, float], Draw]]:
    """(kind, place, size in inches, how to draw it)."""
    for bars in ablation_groups(report):
        yield "ablation", name_of(bars[0].where), (5, 0.8 + 0.35 * len(bars)), _drawing(_ablation, bars)
    for chart in size_curves(report):
        yield "curve", chart.title, (5, 3.2), _drawing(_curve, chart)
    for item in report.maps:
        side = 1.8 + 0.4 * len(item.types)
        for dimension in item.scores:
            place = f"{dimension} {item.domain}"
            yield "confusion", place, (side + 1, side), _drawing(_heat_map, (item, dimension))
    for settings in error_groups(report):
        height = 1 + 0.16 * len(settings) * len(settings[0])
        yield "errors", name_of(settings[0][0].where), (5, height), _drawing(_errors, settings)


def _drawing(draw: Callable[[Axes, Shown], None], shown: Shown) -> Draw:
    return lambda axes: draw(axes, shown)


def _slug(place: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", place.lower()).strip("-")[:60] or "figure"


def _write(files: Sequence[Path], size: tuple[float, float], draw: Draw, *, force: bool) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        for file in files:
            dated = {"Date": None} if file.suffix == ".svg" else {}
            with output(file, force=force) as unfinished:
                figure.savefig(unfinished, format=file.suffix[1:], dpi=200, metadata=dated)


def _ablation(axes: Axes, bars: Sequence[Ablation]) -> None:
    f1 = [100 * bar.f1 for bar in bars]
    below = [100 * (bar.f1 - bar.low) for bar in bars]
    above = [100 * (bar.high - bar.f1) for bar in bars]
    axes.barh(_names([bar.where.setting for bar in bars]), f1, xerr=(below, above), color=_BAR, capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("F1, 95 % interval")
    axes.set_title(visible(name_of(bars[0].where)))


def _curve(axes: Axes, chart: Curves) -> None:
    for setting, line in chart.lines.items():
        deviations = [100 * (point.deviation or 0.0) for point in line]
        axes.errorbar(
            [point.x for point in line],
            [100 * point.f1 for point in line],
            yerr=deviations if any(deviations) else None,
            marker="o",
            capsize=3,
            label=setting_name(visible(setting)),
        )
    axes.set_xlabel(visible(chart.axis))
    axes.set_ylabel("F1")
    axes.set_title(visible(chart.title))
    axes.legend(frameon=False)


def _heat_map(axes: Axes, shown: tuple[ConfusionMap, str]) -> None:
    item, dimension = shown
    scores = [[float("nan") if cell is None else cell for cell in row] for row in item.scores[dimension]]
    drawn = axes.imshow(scores, cmap="Oranges")
    high = max(cell for row in item.scores[dimension] for cell in row if cell is not None)
    for i, row in enumerate(item.scores[dimension]):
        for j, cell in enumerate(row):
            if cell is not None:
                colour = "white" if cell > 0.7 * high else "black"
                axes.text(
                    j,
                    i,
                    f"{cell:.2f}"[1:] if cell < 1 else f"{cell:.2f}",
                    ha="center",
                    va="center",
                    color=colour,
                )
    types = [visible(name) for name in item.types]
    labels = [
        f"{visible(prefix)} → {name}" if prefix else name
        for prefix, name in zip(item.prefixes, types, strict=True)
    ]
    axes.set_xticks(range(len(types)), types, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(types)), labels)
    axes.set_title(f"{dimension}: {visible(item.domain)}")
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(drawn, ax=axes, shrink=0.8)


def _errors(axes: Axes, settings: Sequence[Sequence[ErrorShare]]) -> None:
    lines = [row for rows in zip(*settings, strict=True) for row in rows]
    gap = 0.6  # between types, in bars
    y = [number + gap * (number // len(settings)) for number in range(len(lines))]
    left = [0.0] * len(lines)
    for part, (label, colour) in enumerate(_ERROR_PARTS):
        counts = [(row.n_misclassified, row.n_boundary, row.n_not_found)[part] for row in lines]
        shares = [100 * n / row.n_gold if row.n_gold else 0.0 for n, row in zip(counts, lines, strict=True)]
        axes.barh(y, shares, left=left, height=0.85, color=colour, label=label)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    names = ["all" if row.entity_type == "*" else visible(row.entity_type) for row in lines]
    axes.set_yticks(
        y, [f"{name}, {_names([row.where.setting])[0]}" for name, row in zip(names, lines, strict=True)]
    )
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("% of the type's gold entities")
    axes.set_title(visible(name_of(lines[0].where)))
    axes.margins(y=0.01)
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.legend(loc="outside lower center", ncols=len(_ERROR_PARTS), frameon=False)


def _names(settings: Sequence[str]) -> list[str]:
    return [setting_name(visible(setting)) for setting in settings]
