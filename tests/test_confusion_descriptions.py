"""Glosses by pinned sense, WordNet built without root, the LLM's text cleaned, descriptions from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_corpora import domain

from cdner.confusion import descriptions
from cdner.confusion.descriptions import (
    Gloss,
    description_text,
    fetch_wordnet,
    gloss,
    read_descriptions,
    wordnet_available,
)
from cdner.errors import InputError
from cdner.files import resource_root
from cdner.prompts.domains import load_domain
from cdner.steps.step import entries_identity
from cdner.types import TypeEntry

CROSSNER = ("politics", "science", "music", "literature", "ai")
# label -> lemma, sense; fixed by reading the senses, not by taking the first
PINNED = {
    "person": ("person", "person.n.01"),
    "organisation": ("organization", "organization.n.01"),
    "location": ("location", "location.n.01"),
    "misc": ("", ""),
    "country": ("country", "state.n.04"),
    "politician": ("politician", "politician.n.02"),
    "election": ("election", "election.n.01"),
    "politicalparty": ("political_party", "party.n.01"),
    "event": ("event", "event.n.01"),
    "scientist": ("scientist", "scientist.n.01"),
    "university": ("university", "university.n.03"),
    "discipline": ("discipline", "discipline.n.01"),
    "enzyme": ("enzyme", "enzyme.n.01"),
    "protein": ("protein", "protein.n.01"),
    "chemicalelement": ("chemical_element", "chemical_element.n.01"),
    "chemicalcompound": ("chemical_compound", "compound.n.02"),
    "astronomicalobject": ("celestial_body", "celestial_body.n.01"),
    "academicjournal": ("journal", "journal.n.02"),
    "theory": ("theory", "theory.n.01"),
    "award": ("award", "award.n.02"),
    "musicgenre": ("music_genre", "music_genre.n.01"),
    "song": ("song", "song.n.01"),
    "band": ("band", "dance_band.n.01"),
    "album": ("album", "album.n.01"),
    "musicalartist": ("musician", "musician.n.01"),
    "musicalinstrument": ("musical_instrument", "musical_instrument.n.01"),
    "book": ("book", "book.n.01"),
    "writer": ("writer", "writer.n.01"),
    "poem": ("poem", "poem.n.01"),
    "magazine": ("magazine", "magazine.n.01"),
    "literarygenre": ("genre", "genre.n.01"),
    "field": ("field", "discipline.n.01"),
    "task": ("task", "undertaking.n.01"),
    "product": ("product", "product.n.02"),
    "algorithm": ("algorithm", "algorithm.n.01"),
    "researcher": ("researcher", "research_worker.n.01"),
    "metrics": ("metrics", "system_of_measurement.n.01"),
    "programlang": ("programming_language", "programming_language.n.01"),
    "conference": ("conference", "conference.n.01"),
}


def _entry(synset: str, said: str = "") -> TypeEntry:
    return TypeEntry("band", "band", "band", "band", synset, "Musicians who play together.", said)


def _in_a_fresh_process(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """NLTK reads its paths once per process, so a machine without WordNet needs a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "NLTK_DATA"}
    environment |= {"CDNER_CACHE": str(cache), "HOME": str(cache)}
    preamble = (
        "import nltk; nltk.data.path.clear()\n"
        "from cdner.confusion.descriptions import *\n"
        "from cdner.types import TypeEntry\n"
        "band = TypeEntry('band', 'band', 'band', 'band', 'dance_band.n.01', 'By hand.')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", preamble + code], env=environment, capture_output=True, text=True, check=False
    )


# --- glosses ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wordnet")
@pytest.mark.parametrize("name", CROSSNER)
def test_every_crossner_type_has_the_pinned_sense_and_its_gloss(name: str) -> None:
    from nltk.corpus import wordnet as reader

    entries = load_domain(name).entries
    assert entries
    for entry in entries:
        assert (entry.lemma, entry.synset) == PINNED[entry.name]
        found = gloss(entry)
        if not entry.synset:
            assert found == Gloss(entry.definition, "hand")
            continue
        synset = reader.synset(entry.synset)
        assert synset in reader.synsets(entry.lemma)
        assert found == Gloss(synset.definition(), "wordnet") == gloss(replace(entry, gloss=""))


def test_crossner_has_65_domain_and_type_pairs() -> None:
    assert sum(len(load_domain(name).entries) for name in CROSSNER) == 65


@pytest.mark.usefixtures("wordnet")
def test_every_shipped_type_file_names_senses_that_exist() -> None:
    files = sorted((resource_root("prompts") / "types").glob("*.toml"))
    assert len(files) >= 6
    for path in files:
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["type"]:
            entry = TypeEntry(row["name"], "", row["phrase"], row["lemma"], row["synset"], row["definition"])
            assert gloss(entry).text == row.get("gloss", row["definition"])


def test_a_gloss_in_the_types_file_needs_no_wordnet(tmp_path: Path) -> None:
    code = "from dataclasses import replace; print(gloss(replace(band, gloss='they play')).text)"
    done = _in_a_fresh_process(code, tmp_path)
    assert done.stdout == "they play\n", done.stderr


def test_without_wordnet_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    done = _in_a_fresh_process("print(wordnet_available()); gloss(band)", tmp_path)
    assert done.stdout == "False\n"
    assert "cdner models fetch wordnet" in done.stderr.splitlines()[-1]


def test_a_failed_download_says_why_and_what_to_do(tmp_path: Path) -> None:
    failing = "lambda *a, print_error_to, **k: not print_error_to.write('[nltk_data] no route')"
    code = f"import nltk; nltk.download = {failing}\n"
    done = _in_a_fresh_process(f"{code}fetch_wordnet()", tmp_path)
    assert "NLTK cannot download WordNet (no route). Copy an NLTK data root" in done.stderr.splitlines()[-1]


def test_an_own_gloss_is_part_of_what_identifies_a_domain_and_a_shipped_one_is_not() -> None:
    shipped = load_domain("music")
    bare = replace(shipped, entries=tuple(replace(entry, gloss="") for entry in shipped.entries))
    own = replace(shipped, entries=tuple(replace(entry, gloss="other") for entry in shipped.entries))
    assert entries_identity(shipped) == entries_identity(bare) != entries_identity(own)


@pytest.mark.usefixtures("wordnet")
def test_the_pinned_sense_is_not_the_first_one() -> None:
    assert "music" in gloss(_entry("dance_band.n.01")).text
    assert gloss(_entry("dance_band.n.01")) != gloss(_entry("band.n.01"))


@pytest.mark.usefixtures("wordnet")
@pytest.mark.parametrize("synset", ["band.n.99", "nosuchlemma.n.01", "band"])
def test_a_sense_wordnet_does_not_have_is_named(synset: str) -> None:
    with pytest.raises(InputError, match=f"'band': WordNet has no sense '{synset}'"):
        gloss(_entry(synset))


def test_importing_descriptions_does_not_import_nltk() -> None:
    code = "import sys, cdner.confusion.mcqm, cdner.confusion.descriptions; sys.exit('nltk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the LLM's text -----------------------------------------------------------------------------------------

FALLBACK = Gloss("musicians who play together", "wordnet")


@pytest.mark.parametrize(
    "completion",
    [
        "A group that plays music.",
        "  A group\n that plays\tmusic. \n",
        '"A group that plays music."',
        "Description: A group that plays music.",
        "**Enriched description:** A group that plays music.",
        "```text\nA group that plays music.\n```",
        "<think>What is a band?</think>\nDefinition: “A group that plays music.”",
    ],
)
def test_wrapping_around_a_description_is_taken_off(completion: str) -> None:
    found = description_text(completion, FALLBACK)
    assert (found.text, dict(found.malformed)) == ("A group that plays music.", {})


@pytest.mark.parametrize(
    "completion", ["", " \n", '""', "...", "```\n```", "Description:", "<think>never finished"]
)
def test_an_empty_description_falls_back_to_the_gloss_and_is_counted(completion: str) -> None:
    found = description_text(completion, FALLBACK)
    assert (found.text, dict(found.malformed)) == (FALLBACK.text, {"empty_description": 1})


def test_quotes_and_colons_inside_a_description_stay() -> None:
    text = '"Abbey Road" and "Help!" are albums: records, not bands. A description: of sorts.'
    assert description_text(text, FALLBACK).text == text


@given(st.text())
def test_a_description_is_never_empty_and_always_one_line(completion: str) -> None:
    found = description_text(completion, FALLBACK)
    assert found.text.strip()
    assert len(found.text.splitlines()) == 1


# --- from outside -------------------------------------------------------------------------------------------


def test_all_65_outside_descriptions_are_read_and_six_recovered(shared_data: Path) -> None:
    path = shared_data / "descriptions" / "slimer_gpt35.json"
    found = {name: read_descriptions(path, load_domain(name)) for name in CROSSNER}
    assert {name: imported.n_recovered for name, imported in found.items()} == {
        "politics": 2,
        "science": 2,
        "music": 2,
        "literature": 0,
        "ai": 0,
    }
    for name, imported in found.items():
        assert tuple(imported.texts) == load_domain(name).types
        for text in imported.texts.values():
            assert len(text) > 100
            assert '{"' not in text
            assert "Guidelines" not in text
    assert found["politics"].texts["location"].endswith("metaphorically to refer to abstract places.")


def _write(path: Path, table: object) -> Path:
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_cut_off_json_gives_its_whole_sentences(tmp_path: Path) -> None:
    raw = '{\n "Definition": "A \\"band\\" plays.", "Guidelines": "Take names. Do not take gen'
    path = _write(tmp_path / "d.json", {"music": {"band": {"raw": raw}, "song": "A song."}})
    found = read_descriptions(path, domain("music", ("band", "song")))
    assert dict(found.texts) == {"band": 'A "band" plays. Take names.', "song": "A song."}
    assert found.n_recovered == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ai": {}}, "no domain 'music'"),
        ([], "no domain 'music'"),
        ({"music": {}}, "no readable description for type 'band'"),
        ({"music": {"band": " "}}, "no readable description for type 'band'"),
        ({"music": {"band": {"raw": '{"Definition": "A'}}}, "no readable description for type 'band'"),
        ({"music": {"band": ["A band."]}}, "no readable description for type 'band'"),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path: Path, table: object, message: str) -> None:
    path = _write(tmp_path / "d.json", table)
    with pytest.raises(InputError, match=message) as caught:
        read_descriptions(path, domain("music", ("band",)))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="Cannot read descriptions from"):
        read_descriptions(path, domain("music", ("band",)))


def test_fetching_what_is_there_already_touches_nothing(
    wordnet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    fetch_wordnet()
    assert wordnet_available()
    assert list(tmp_path.iterdir()) == []
    assert descriptions.wordnet_root() == tmp_path / "nltk_data"
