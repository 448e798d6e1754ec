"""Whatever text goes into the page comes out of an HTML parser as that text, and as nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_stores import ATTACKS

from cdner.report import Report, render_page
from cdner.report.content import Model, Where
from cdner.report.markup import Verbatim, element, write
from cdner.text import visible
from cdner.types import Corpus, Entity, ReasoningChain, Sentence

FOLDER = Path(__file__).resolve().parents[1] / "cdner" / "report"
texts = st.one_of(st.text(), st.sampled_from(ATTACKS), st.text("<>&\"'/!-=` \n", max_size=30))


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(texts, texts)
def test_text_and_attributes_come_back_as_they_were(text, value):
    parsed = Parsed(write(element("p", text, title=value)))
    assert parsed.tags == ["p"]
    assert parsed.text == visible(text)
    assert parsed.attributes == {"title": visible(value)}


def test_names_and_flags_of_attributes():
    made = element("input", aria_label="a", class_="b", hidden=True, checked=False, value=None, tabindex=0)
    assert write(made) == '<input aria-label="a" class="b" hidden tabindex="0">'


@pytest.mark.parametrize("text", ["a </script> b", "<!-- a"])
def test_a_script_that_could_end_its_element_is_refused(text):
    with pytest.raises(ValueError, match="verbatim"):
        write(element("script", Verbatim(text)))


def report_of(text: str) -> Report:
    """A report in which everything that is not ours says ``text``."""
    where = Where("study", (), "ai", "test", "full")
    sentence = Sentence((text or "a",), (Entity(0, 1, text),))
    corpus = Corpus("ai", "test", (sentence,), types=(text,))
    model = Model(where, "study", "0" * 24, 0, {0: (Entity(0, 1, text),)}, {0: ReasoningChain(text, text)})
    return Report(text, "1", "now", ("study",), (), (), (), (), (), (), (), (corpus,), (model,), ())


@given(texts)
def test_no_text_ends_the_pages_content(text):
    page = render_page(report_of(text))
    content = page.split('<script type="application/json" id="content">')[1].split("</script>")[0]
    assert not set(content) & set("<>&\u2028\u2029")
    read = json.loads(content)
    assert read["corpora"][0]["sentences"][0][0] == [visible(text or "a")]
    assert read["models"][0]["reasoning"]["0"] == [visible(text)] * 2
    assert page.count("<script") == 2
    assert page.count("<title>") == 1


def test_the_policy_names_exactly_the_shipped_style_and_script():
    page = render_page(report_of("a"))
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert found
    said = found[1].replace("&#x27;", "'")
    assert said.startswith("default-src 'none'; ")
    assert "unsafe" not in said
    for name, directive in (("page.js", "script-src"), ("page.css", "style-src")):
        digest = hashlib.sha256((FOLDER / name).read_bytes()).digest()
        assert f"{directive} 'sha256-{base64.b64encode(digest).decode()}'" in said
    assert page.index("Content-Security-Policy") < page.index("<style>"), "it holds for what follows it"


def test_our_script_and_style_write_no_markup_and_name_no_address():
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "Function(",
    ):
        assert forbidden not in script
    for text in (script, style):
        assert "://" not in text
        assert "@import" not in text
        assert "url(" not in text
