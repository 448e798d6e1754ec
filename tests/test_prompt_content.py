"""What stands in prompts/: every label set, example and template, against the facts of the corpora."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdner.files import resource_root
from cdner.prompts import (
    PbrcInputs,
    load_domain,
    load_examples,
    load_template,
    render_fixed_part,
    template_names,
)

DECLARED = {
    "politics": "politician person organisation politicalparty event election country location misc",
    "science": "scientist person university organisation country location discipline enzyme protein "
    "chemicalcompound chemicalelement event astronomicalobject academicjournal award theory misc",
    "music": "musicgenre song band album musicalartist musicalinstrument award event country location "
    "organisation person misc",
    "literature": "book writer award poem event magazine person location organisation country misc "
    "literarygenre",
    "ai": "field task product algorithm researcher metrics university country person organisation location "
    "misc conference programlang",
    "conll2003": "person organisation location misc",
    "twitter2017": "person organisation location misc",
    "newsdesk": "person organisation location misc",
}
TYPES_FILES = sorted(path.stem for path in (resource_root("prompts") / "types").glob("*.toml"))
EXAMPLES_FILES = sorted(path.stem for path in (resource_root("prompts") / "examples").glob("*.toml"))
N_LEAKED_TOKENS = 9  # a run this long in both an example and a corpus is a copied sentence


def test_every_target_domain_has_label_set_and_examples() -> None:
    assert set(TYPES_FILES) >= {"ai", "coarse", "film", "literature", "music", "politics", "science"}
    targets = [name for name in TYPES_FILES if load_domain(name).role == "target"]
    assert targets == EXAMPLES_FILES


@pytest.mark.parametrize("name", DECLARED)
def test_types_stand_in_declared_order(name: str) -> None:
    assert load_domain(name).types == tuple(DECLARED[name].split())


def test_source_types_have_the_short_names_of_the_paper() -> None:
    coarse = load_domain("conll2003")
    assert coarse.role == "source"
    assert [entry.short for entry in coarse.entries] == ["PER", "ORG", "LOC", "MISC"]


@pytest.mark.parametrize("name", TYPES_FILES)
def test_every_definition_is_one_explanation_of_its_own(name: str) -> None:
    definitions = [entry.definition for entry in load_domain(name).entries]
    assert len(set(definitions)) == len(definitions)
    for definition in definitions:
        assert 10 <= len(definition.split()) <= 60, definition
        assert definition.endswith("."), definition


@pytest.mark.parametrize("name", TYPES_FILES)
def test_only_misc_has_no_wordnet_sense(name: str) -> None:
    entries = load_domain(name).entries
    assert entries
    for entry in entries:
        assert (entry.synset == "") is (entry.name == "misc"), entry
        assert bool(entry.lemma) is bool(entry.synset), entry


@pytest.mark.parametrize(
    ("name", "entity_type", "synset"),
    [
        ("science", "award", "award.n.02"),
        ("music", "band", "dance_band.n.01"),
        ("ai", "field", "discipline.n.01"),
        ("ai", "metrics", "system_of_measurement.n.01"),
        ("politics", "organisation", "organization.n.01"),
        ("politics", "country", "state.n.04"),
    ],
)
def test_senses_that_a_first_sense_rule_would_miss_are_pinned(
    name: str, entity_type: str, synset: str
) -> None:
    (found,) = [entry.synset for entry in load_domain(name).entries if entry.name == entity_type]
    assert found == synset


@pytest.mark.parametrize("name", EXAMPLES_FILES)
def test_ten_different_examples_show_every_type(name: str) -> None:
    examples = load_examples(name)
    assert len(examples) == 10
    assert len({example.text for example in examples}) == 10
    shown = {entity.type for example in examples for entity in example.entities}
    assert shown == set(load_domain(name).types)


@pytest.mark.parametrize("name", EXAMPLES_FILES)
def test_every_mention_of_an_example_is_discussed(name: str) -> None:
    examples = load_examples(name)
    assert examples
    for example in examples:
        assert example.text == " ".join(example.text.split()), example.text
        for entity in example.entities:
            assert entity.mention.lower() in example.initial.lower(), (example.text, entity)
        for step in example.steps:
            for mention in step.mentions:
                assert mention.lower() in step.forward.lower(), (example.text, step)


@pytest.mark.parametrize("name", EXAMPLES_FILES)
def test_forward_reasoning_gives_no_reason_against_a_rival(name: str) -> None:
    """Without backward only the forward text is shown; it must not smuggle the confusion map in."""
    examples = load_examples(name)
    assert examples
    for example in examples:
        for step in example.steps:
            assert "rather than" not in step.forward, step.forward
            assert "rather than" not in example.initial, example.initial


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _runs(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[start : start + N_LEAKED_TOKENS] for start in range(len(words) - N_LEAKED_TOKENS + 1)}


@pytest.fixture(scope="module")
def corpus_runs(shared_data: Path) -> set[tuple[str, ...]]:
    runs: set[tuple[str, ...]] = set()
    for path in [*shared_data.glob("crossner/*/*.txt"), *shared_data.glob("twitter2017/*.txt")]:
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            tokens = [line.split("\t")[0] for line in block.splitlines() if line.strip()]
            runs |= _runs(_words(" ".join(tokens)))
    assert len(runs) > 100_000
    return runs


@pytest.mark.parametrize("name", EXAMPLES_FILES)
def test_no_example_sentence_is_taken_from_a_corpus(name: str, corpus_runs: set[tuple[str, ...]]) -> None:
    examples = load_examples(name)
    assert examples
    for example in examples:
        assert not _runs(_words(example.text)) & corpus_runs, example.text


@pytest.mark.parametrize("name", EXAMPLES_FILES)
@pytest.mark.parametrize("template", [name for name in template_names() if name.startswith(("pbrc", "ner"))])
def test_every_template_renders_every_domain(name: str, template: str) -> None:
    source, target = load_domain("conll2003"), load_domain(name)
    inputs = PbrcInputs(
        setting="full",
        source=source,
        target=target,
        prefixes=dict.fromkeys(target.types, "MISC"),
        rivals={target.types[0]: (target.types[1],)},
        examples=load_examples(name),
        n_examples=10,
        structured=True,
    )
    fixed = render_fixed_part(load_template(template), inputs)
    assert len(fixed) == 21
    for entry in (*source.entries, *target.entries):
        assert entry.definition in fixed[0].content
