"""The one shape in which every benchmark of this folder reports, so that ``all`` can make one table of them.

A benchmark is an executable ``scripts/benchmarks/NAME`` without suffix that takes ``--corpora-from FOLDER`` (the
CrossNER files; fetched where left out) and ``--output FILE``, and ends with ``publish``. Its JSON:

    {"rows": [{"what", "against", "value", "demanded", "bound", "unit", "met", "measured_on"}, ...],
     "machine": {...}, "details": {...}}

``details`` is the benchmark's own. Exit code 0: all measured and met; 3: all measured, something missed; anything
else: not measured. This module knows no benchmark and imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NoReturn

EXIT_MET, EXIT_MISSED = 0, 3


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``value`` and ``demanded`` are in ``unit``; without a demand there is nothing to meet."""

    what: str  # "training, T5-base, bf16"
    against: str  # "transformers Seq2SeqTrainer"; "" where the figure stands alone
    value: float
    unit: str  # "x" (how many times better than ``against``), "s", "%", "calls" ...
    demanded: float | None = None
    bound: Literal["at least", "at most", ""] = ""
    measured_on: str = ""  # "24 ai sentences, one thread": what a reader needs to repeat it

    @property
    def met(self) -> bool | None:
        if self.demanded is None:
            return None
        return self.value >= self.demanded if self.bound == "at least" else self.value <= self.demanded


def at_least(what: str, value: float, demanded: float, *, unit: str = "x", against: str = "", on: str) -> Row:
    return Row(what, against, value, unit, demanded, "at least", on)


def at_most(what: str, value: float, demanded: float, *, unit: str, against: str = "", on: str) -> Row:
    return Row(what, against, value, unit, demanded, "at most", on)


def stated(what: str, value: float, *, unit: str, against: str = "", on: str) -> Row:
    """A figure that nothing is demanded of: a slope, a share of equal texts."""
    return Row(what, against, value, unit, measured_on=on)


def as_json(rows: Sequence[Row], details: Mapping[str, Any] | None = None) -> str:
    table = [{**dataclasses.asdict(row), "met": row.met} for row in rows]
    return json.dumps({"rows": table, "machine": machine(), "details": details or {}}, indent=2) + "\n"


def publish(rows: Sequence[Row], output: Path | None, details: Mapping[str, Any] | None = None) -> NoReturn:
    """``write`` and end the process with its exit code."""
    write(rows, output, details)
    sys.exit(EXIT_MISSED if any(row.met is False for row in rows) else EXIT_MET)


def write(rows: Sequence[Row], output: Path | None, details: Mapping[str, Any] | None = None) -> None:
    """The JSON to ``output`` (None: stdout)."""
    text = as_json(rows, details)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def read(document: Mapping[str, Any]) -> list[Row]:
    """The rows of a benchmark's JSON. ValueError where it has another shape."""
    found = document.get("rows")
    if not isinstance(found, list) or not found:
        raise ValueError("no rows in its JSON")
    names = {field.name for field in dataclasses.fields(Row)}
    try:
        return [Row(**{name: row[name] for name in names}) for row in found]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a row without its {error}") from error


def markdown(rows: Sequence[Row]) -> str:
    """The README's table."""
    lines = ["| what | against | measured | demanded | met | measured on |", "|---|---|---|---|---|---|"]
    for row in rows:
        demanded = "-" if row.demanded is None else f"{row.bound} {_figure(row.demanded, row.unit)}"
        met = {True: "yes", False: "**no**", None: "-"}[row.met]
        cells = (row.what, row.against or "-", _figure(row.value, row.unit), demanded, met, row.measured_on)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number}{unit}" if unit in {"x", "%", ""} else f"{number} {unit}"


def machine() -> dict[str, Any]:
    """What the figures were taken on, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": models[0] if models else platform.processor(),
        "n_processors": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "duckdb", "cdner")},
        "commit": commit.stdout.strip(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
