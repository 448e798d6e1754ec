"""The page in a real headless Chromium: what a reader does, and what a hostile corpus tries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chromium_pages import Page, chromium_page
from cli_stores import study_store
from report_stores import ATTACKS, TYPES, ReportStore, shared_report_store

from cdner.report import Report, render_page
from cdner.report.content import DIMENSIONS
from cdner.report.gathering import gather
from cdner.store import Store
from cdner.text import visible

COUNT = "document.querySelector('#browser .count').textContent"
ROWS = "document.querySelectorAll('.errors > li').length"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> ReportStore:
    return shared_report_store(tmp_path_factory)


@pytest.fixture(scope="module")
def found(filled: ReportStore) -> Report:
    return gather(Store(filled.path), ["sizes"], title=ATTACKS[0], n_resamples=200)


@pytest.fixture(scope="module")
def file(found: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium_page() as page:
        yield page


@pytest.fixture
def page(browser: Page, file: Path) -> Page:
    browser.open(file)
    return browser


def choose(page: Page, name: str, value: str) -> None:
    page.run(
        f"(() => {{ const it = document.querySelector('#browser [name={name}]'); it.value = {json.dumps(value)};"
        " it.dispatchEvent(new Event(it.tagName === 'INPUT' ? 'input' : 'change')); })()"
    )


def n_found(page: Page) -> int:
    return int(page.run(COUNT).split(" of ")[0].replace(",", ""))


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_the_page_is_whole_without_a_complaint_and_asks_for_nothing(browser, file, found, width, dark):
    browser.open(file, width=width, dark=dark)
    sections = browser.run("[...document.querySelectorAll('main section')].map(s => s.id)")
    assert sections == ["scores", "published", "ablation", "curves", "confusion", "types", "errors", "runs"]
    assert n_found(browser) == len(found.errors) > 100
    assert browser.run("document.querySelectorAll('svg').length") >= 5
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert browser.requests == [file.as_uri()]
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark


def test_what_a_corpus_says_is_text_and_runs_nothing(page, found):
    assert page.run("window.owned === undefined && !document.querySelector('img')")
    assert page.run("document.title") == f"{ATTACKS[0]} - cdner report"
    assert page.run("document.querySelector('h1').textContent") == ATTACKS[0]
    for attack in ATTACKS:
        choose(page, "text", visible(attack))
        assert n_found(page) > 0, attack
        assert visible(attack) in page.run("document.querySelector('.errors .sentence').textContent")
        page.run("document.querySelector('.errors details').open = true")
    assert page.run("document.querySelector('.errors mark b') === null")
    assert page.run("window.owned === undefined && !document.querySelector('img')")
    assert page.complaints == []


def test_the_policy_stops_scripts_that_are_not_ours_and_every_request(page, file):
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 2'}))"
    )
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 3\">')")
    refused = page.run("fetch('https://example.org').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert page.run("window.owned === undefined")
    assert page.complaints != []
    assert [url for url in page.requests if url.startswith("http")] == []


def test_a_click_on_a_cell_of_the_map_filters_the_browser(page, found):
    page.run("document.querySelector('.heat button[data-gold=poet][data-predicted=city]').click()")
    expected = [e for e in found.errors if (e.kind, e.gold, e.predicted) == ("type", "poet", "city")]
    assert n_found(page) == len(expected) > 0
    shown = page.run("[...document.querySelectorAll('.errors .change')].map(it => it.textContent)")
    assert set(shown) == {"poet → city"}
    assert page.run("document.activeElement.tagName") == "SUMMARY", "the focus follows"


def test_the_map_works_by_keys_alone(page):
    page.run("document.querySelector('.heat button[tabindex=\"0\"]').focus()")
    assert page.run("document.activeElement.getAttribute('aria-label')").startswith(
        "poet taken for city: 0.700"
    )
    page.press("ArrowRight")
    page.press("ArrowDown")
    assert page.run("document.activeElement.dataset.gold") == "city"
    assert page.run("document.activeElement.dataset.predicted") == TYPES[2]
    assert page.run("document.querySelectorAll('.heat button[tabindex=\"0\"]').length") == 1
    page.press("Enter")
    assert page.run("document.querySelector('#browser [name=gold]').value") == "city"


def test_every_dimension_can_be_chosen_and_rows_carry_their_prefix(page):
    assert page.run("[...document.querySelectorAll('.dimensions input')].map(it => it.value)") == list(
        DIMENSIONS
    )
    cell = "document.querySelector('.heat tbody button').textContent"
    assert page.run(cell) == ".70"
    page.run("document.querySelector('.dimensions input[value=u_hie]').click()")
    assert page.run(cell) == ".35"
    rows = page.run("[...document.querySelectorAll('.heat tbody th')].map(it => it.textContent)")
    assert rows == ["person → poet", "location → city", f"location → {TYPES[2]}"]
    assert page.run("document.querySelectorAll('.heat .rival').length") == 2


def test_search_finds_the_words_of_sentences_and_clear_brings_all_back(page, found):
    page.run("document.querySelector('#browser [name=text]').focus()")
    page.type("ANN onerror")
    assert n_found(page) == sum(e.position == 1 for e in found.errors) > 0
    choose(page, "text", "no such words")
    assert n_found(page) == page.run(ROWS) == 0
    page.run("document.querySelector('#browser form button').click()")
    assert n_found(page) == len(found.errors)


@pytest.mark.parametrize("kind", ["type", "boundary", "missed", "spurious"])
def test_filters_by_model_and_kind_count_what_the_report_has(page, found, kind):
    choose(page, "model", "1")
    choose(page, "kind", kind)
    assert n_found(page) == sum(e.model == 1 and e.kind == kind for e in found.errors)


def test_an_error_opens_to_gold_and_every_model_with_its_reasoning(page, found):
    page.run("document.querySelector('.errors summary').focus()")
    page.press("Enter")
    page.run("new Promise(done => setTimeout(done, 50))")
    titles = page.run("[...document.querySelectorAll('.panel h3')].map(it => it.textContent)")
    assert len(titles) == 3
    assert titles[0] == "Gold"
    assert titles[1].startswith("w/o all")
    assert titles[2].startswith("full")
    assert "then back" in page.run("document.querySelectorAll('.panel')[2].textContent")
    assert "then back" not in page.run("document.querySelectorAll('.panel')[1].textContent")
    page.run("document.querySelector('.panels + .folded').open = true")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert page.run("document.querySelectorAll('.panel').length") == 1 + len(found.models)


def test_ten_thousand_errors_stay_responsive(browser, found, tmp_path):
    times = -(-10_000 // len(found.errors))
    many = replace(found, errors=(found.errors * times)[:10_000])
    path = tmp_path / "many.html"
    path.write_text(render_page(many), encoding="utf-8")
    assert browser.open(path) < 10, "seconds; about 0.5 on an idle machine"
    assert browser.run(COUNT).endswith("of 10,000 errors")
    assert browser.run(ROWS) <= 100, "the others are not drawn"
    milliseconds = browser.run(
        "(() => { const input = document.querySelector('#browser [name=text]'); const from = performance.now();"
        " for (const text of ['a', 'an', 'ann', '']) { input.value = text; input.dispatchEvent(new Event('input'));"
        " document.body.offsetHeight; } return (performance.now() - from) / 4; })()"
    )
    assert milliseconds < 500, "a keystroke; about 20 on an idle machine"
    before = browser.run(ROWS)
    browser.run("document.querySelector('.more').scrollIntoView({behavior: 'instant'})")
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert before < browser.run(ROWS) < 1000


def test_an_experiment_without_scores_shows_what_there_is(browser, tmp_path):
    study = study_store(tmp_path / "study.duckdb")
    path = tmp_path / "study.html"
    path.write_text(render_page(gather(Store(study.path), ["study"])), encoding="utf-8")
    browser.open(path)
    assert browser.run("[...document.querySelectorAll('main section')].map(s => s.id)") == [
        "confusion",
        "runs",
    ]
    browser.run("document.querySelector('.heat button').click()")
    rows = browser.run("[...document.querySelectorAll('.heat tbody th')].map(it => it.textContent)")
    assert rows == ["PER → politician", "ORG → party", "PER → [red]law"]
    assert browser.complaints == []


def test_print_shows_content_without_controls(page):
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.ask("Emulation.setEmulatedMedia", media="")
