"""Figures for papers: files that open, of the report's own charts, the same ones every time."""

from __future__ import annotations

import builtins
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from report_stores import ATTACKS, shared_report_store

from cdner.errors import UsageError
from cdner.report import Report
from cdner.report.command import report
from cdner.report.figures import write_figures
from cdner.report.gathering import gather
from cdner.store import Store

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One heat map is enough: drawing is slow."""
    whole = gather(Store(shared_report_store(tmp_path_factory).path), n_resamples=100)
    (item,) = whole.maps
    return replace(whole, maps=(replace(item, scores={"v_conf": item.scores["v_conf"]}),))


def test_every_chart_is_a_png_and_an_svg_that_open(found, tmp_path):
    files = write_figures(found, tmp_path / "new" / "figures")
    kinds = [file.name.split("-")[1] for file in files]
    assert sorted(set(kinds)) == ["ablation", "confusion", "curve", "errors"]
    assert [file.suffix for file in files] == [".png", ".svg"] * (len(files) // 2)
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(PNG)
        else:
            assert ElementTree.parse(file).getroot().tag.endswith("}svg")


def test_the_same_report_gives_the_same_files_and_no_text_is_read_as_tex(found, tmp_path):
    hostile = replace(
        found,
        ablations=tuple(
            replace(bar, where=replace(bar.where, study=f"$\\frac{{{attack}", setting=attack))
            for bar, attack in zip(found.ablations, ATTACKS, strict=False)
        ),
        maps=(),
        scores=(),
        errors_per_type=(),
    )
    first, second = (write_figures(hostile, tmp_path / name) for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert all(file.parent == tmp_path / "a" for file in first), "no name leads elsewhere"
    assert {char for file in first for char in file.stem} <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_without_matplotlib_one_line_says_how_to_get_it(found, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"cdner\[figures\]"):
        write_figures(found, tmp_path)
    assert "extra 'figures'" in {o.name: o.help for o in report.params if hasattr(o, "help")}["figures"]
