"""Reasoning: requests that share their fixed part, and answers read tolerantly, with all slips counted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdner.config import REASONING_SETTINGS, Llm, Reasoning, Setting
from cdner.errors import UsageError
from cdner.prompts import Example, ExampleEntity, ExampleStep, load_template, output_parts
from cdner.reasoning import (
    description_requests,
    entities_text,
    parse_description,
    parse_reasoning,
    reasoning_requests,
)
from cdner.types import Domain, ReasoningRequest, TypeEntry

SOURCE = Domain("press", "source", (TypeEntry("misc", "MISC", "miscellaneous", "", "", "Any name."),))
TARGET = Domain(
    "sky",
    "target",
    (
        TypeEntry("moon", "moon", "moon", "", "", "Whatever circles a planet."),
        TypeEntry("skyevent", "skyevent", "sky event", "", "", "An eclipse."),
    ),
)
EXAMPLE = Example(
    "Io is a moon .",
    (ExampleEntity("moon", "Io"),),
    "Io is MISC.",
    (ExampleStep("moon", "skyevent", ("Io",), "Io is a moon.", "It is no event."),),
)


def make_requests(
    texts: list[str], *, setting: Setting = "full", template: str = "pbrc.v1", **changes: Any
) -> tuple[ReasoningRequest, ...]:
    return reasoning_requests(
        texts,
        load_template(template),
        setting=setting,
        source=SOURCE,
        target=TARGET,
        prefixes={"moon": "MISC", "skyevent": "MISC"},
        rivals={"moon": ("skyevent",)},
        examples=(EXAMPLE,),
        settings=Reasoning(n_examples=1, **changes),
    )


def both(initial: str, bidirectional: str) -> str:
    return json.dumps({"initial_reasoning": initial, "bidirectional_reasoning": bidirectional})


# --- requests ----------------------------------------------------------------------------------------------


def test_one_request_per_text_in_order_sharing_all_but_the_last_message() -> None:
    first, second, third = make_requests(["One .", "Two .", "One ."])
    assert first == third and first != second
    assert first.messages[:-1] == second.messages[:-1]
    assert all(a is b for a, b in zip(first.messages[:-1], second.messages[:-1], strict=True))
    assert "One ." in first.messages[-1].content and "Two ." in second.messages[-1].content


def test_sampling_is_the_settings() -> None:
    (request,) = make_requests(["One ."], max_tokens=55, temperature=0.5, seed=7)
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.seed) == (55, 0.5, 7)
    assert request.sampling.stop == ()
    (headed,) = make_requests(["One ."], structured=False)
    assert headed.sampling.stop == ("<text>",) and headed.schema is None


@pytest.mark.parametrize("setting", REASONING_SETTINGS)
@pytest.mark.parametrize("template", ["pbrc.v1", "ner.v1"])
def test_schema_asks_for_the_parts_in_the_order_of_the_steps(setting: Setting, template: str) -> None:
    (request,) = make_requests(["One ."], setting=setting, template=template, max_tokens=700)
    schema = json.loads(request.schema or "")
    keys = [part.key for part in output_parts(setting)] + ["entities"] * (template == "ner.v1")
    assert list(schema["properties"]) == schema["required"] == keys
    assert schema["additionalProperties"] is False
    bounds = [value["maxLength"] for value in schema["properties"].values() if value["type"] == "string"]
    assert sum(bounds) <= 3 * 700 and min(bounds) > 400
    assert list(json.loads(request.messages[2].content)) == keys
    if template == "ner.v1":
        assert list(schema["properties"]["entities"]["properties"]) == ["moon", "skyevent"]


def test_settings_without_llm_have_no_requests() -> None:
    with pytest.raises(UsageError, match="without_all"):
        make_requests(["One ."], setting="without_all")


def test_descriptions_are_asked_type_by_type() -> None:
    template = load_template("describe.v1")
    llm = Llm(max_tokens=160, structured=False)
    moon, event = description_requests(TARGET, {"moon": "any satellite"}, template=template, settings=llm)
    assert "any satellite" in moon.messages[1].content and moon.schema is None
    assert "sky event" in event.messages[1].content and "no entry" in event.messages[1].content
    (structured, _) = description_requests(TARGET, {}, template=template, settings=Llm(max_tokens=100))
    assert json.loads(structured.schema or "")["properties"]["description"]["maxLength"] == 300


# --- answers -----------------------------------------------------------------------------------------------

CASES: list[tuple[str, str, str, str, dict[str, int]]] = [
    ("json", both("I.", "B."), "I.", "B.", {}),
    ("json over lines",
     '\n{ "initial_reasoning" : "I.",\n "bidirectional_reasoning": "B."\n}\n', "I.", "B.", {}),
    ("line breaks inside a string",
     '{"initial_reasoning": "I\nI", "bidirectional_reasoning": "B"}', "I\nI", "B", {}),
    ("fence", f"```json\n{both('I.', 'B.')}\n```", "I.", "B.", {"code_fence": 1}),
    ("prose around", f"Sure! Here:\n{both('I.', 'B.')}\nAnything else?", "I.", "B.", {"surrounding_text": 1}),
    ("cut in the second", both("I.", "B. and more")[:-7], "I.", "B. and", {"truncated_json": 1}),
    ("cut in an escape", both("I.", "B é")[:-6], "I.", "B", {"truncated_json": 1}),
    ("cut in the first", both("I. long", "B.")[:25], "I.", "",
     {"missing_bidirectional": 1, "truncated_json": 1}),
    ("escapes after a cut", '{"initial_reasoning": "a\\n\\"b\\" \\u00e9 \\ud83d\\ude00', 'a\n"b" é 😀', "",
     {"missing_bidirectional": 1, "truncated_json": 1}),
    ("key inside a cut value", '{"bidirectional_reasoning": "say \\"initial_reasoning": "x', "",
     'say "initial_reasoning": "x', {"missing_initial": 1, "truncated_json": 1}),
    ("stray character", both("I.", "B.").replace(", ", ",, "), "I.", "B.", {"truncated_json": 1}),
    ("missing part", '{"bidirectional_reasoning": "B."}', "", "B.", {"missing_initial": 1}),
    ("empty part", both("", "B."), "", "B.", {"missing_initial": 1}),
    ("null part", '{"initial_reasoning": null, "bidirectional_reasoning": "B."}',
     "", "B.", {"missing_initial": 1}),
    ("repeated key",
     '{"initial_reasoning": "I.", "initial_reasoning": "J.", "bidirectional_reasoning": "B."}',
     "I.", "B.", {"duplicate_part": 1}),
    ("other key", '{"initial_reasoning": "I.", "bidirectional_reasoning": "B.", "types": []}', "I.", "B.",
     {"unexpected_part": 1}),
    ("keys as headings", '{"Initial Reasoning": "I.", "Forward Reasoning": "B."}', "I.", "B.", {}),
    ("list of texts", '{"initial_reasoning": ["I", "J"], "bidirectional_reasoning": "B."}', "I J", "B.",
     {"wrong_type": 1}),
    ("object", '{"initial_reasoning": {"Io": "I"}, "bidirectional_reasoning": 3}', '{"Io": "I"}', "3",
     {"wrong_type": 2}),
    ("lone surrogate",
     '{"initial_reasoning": "I \\ud800", "bidirectional_reasoning": "B\\u0000"}', "I \ufffd",
     "B\ufffd", {"invalid_characters": 2}),
    ("headings", "Initial Reasoning: I.\nBidirectional Reasoning: B.", "I.", "B.", {"other_format": 1}),
    ("empty", " \n", "", "", {"empty": 1, "missing_bidirectional": 1, "missing_initial": 1}),
    ("only prose", "Io is a moon.", "", "Io is a moon.",
     {"missing_heading": 1, "missing_initial": 1, "other_format": 1}),
    ("another object", '{"answer": 42}', "", '{"answer": 42}',
     {"missing_heading": 1, "missing_initial": 1, "other_format": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "initial", "bidirectional", "malformed"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_structured_answer(text: str, initial: str, bidirectional: str, malformed: dict[str, int]) -> None:
    chain = parse_reasoning(text, "full", structured=True)
    assert (chain.initial, chain.bidirectional, chain.malformed) == (initial, bidirectional, malformed)


HEADED: list[tuple[str, str, str, str, dict[str, int]]] = [
    ("plain", "Initial Reasoning: I.\nBidirectional Reasoning: B.\nMore B.", "I.", "B.\nMore B.", {}),
    ("bold", "**Initial Reasoning:** I.\n\n**Bidirectional Reasoning**: B.", "I.", "B.", {}),
    ("markdown", "## Initial reasoning\nI.\n## Bidirectional reasoning\nB.", "I.", "B.", {}),
    ("numbered", "1. Initial Reasoning: I.\n2. Bidirectional Reasoning: B.", "I.", "B.", {}),
    ("one line", "Initial Reasoning: I. Bidirectional Reasoning: B.", "I.", "B.", {}),
    ("forward for bidirectional", "Initial Reasoning: I.\nForward Reasoning: B.", "I.", "B.", {}),
    ("words in prose", "Initial Reasoning: The initial reasoning is I.\nBidirectional Reasoning: B.",
     "The initial reasoning is I.", "B.", {}),
    ("repeated", "Initial Reasoning: I.\nBidirectional Reasoning: B.\nInitial Reasoning: J.", "I.", "B.",
     {"duplicate_part": 1}),
    ("other order", "Bidirectional Reasoning: B.\nInitial Reasoning: I.", "I.", "B.", {}),
    ("prose first", "Certainly.\nInitial Reasoning: I.\nBidirectional Reasoning: B.", "I.", "B.",
     {"surrounding_text": 1}),
    ("first heading missing", "I.\nBidirectional Reasoning: B.", "I.", "B.", {"missing_heading": 1}),
    ("second missing", "Initial Reasoning: I.", "I.", "", {"missing_bidirectional": 1}),
    ("fence", "```\nInitial Reasoning: I.\nBidirectional Reasoning: B.\n```", "I.", "B.", {"code_fence": 1}),
    ("braces in prose",
     "Initial Reasoning: the set {1, 2}.\nBidirectional Reasoning: B.", "the set {1, 2}.", "B.",
     {}),
    ("json", both("I.", "B."), "I.", "B.", {"other_format": 1}),
    ("carriage returns", "Initial Reasoning: I.\r\nBidirectional Reasoning: B.\r\n", "I.", "B.", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "initial", "bidirectional", "malformed"), [case[1:] for case in HEADED],
                         ids=[case[0] for case in HEADED])  # fmt: skip
def test_headed_answer(text: str, initial: str, bidirectional: str, malformed: dict[str, int]) -> None:
    chain = parse_reasoning(text, "full", structured=False)
    assert (chain.initial, chain.bidirectional, chain.malformed) == (initial, bidirectional, malformed)


@pytest.mark.parametrize("setting", ["without_initial", "without_initial_and_backward"])
def test_a_part_the_setting_leaves_out_is_dropped_and_counted(setting: Setting) -> None:
    for text, structured in (
        (both("I.", "B."), True),
        ("Initial Reasoning: I.\nForward Reasoning: B.", False),
    ):
        chain = parse_reasoning(text, setting, structured=structured)
        assert (chain.initial, chain.bidirectional) == ("", "B.")
        assert chain.malformed == {"unexpected_part": 1}


prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).map(
    str.strip
)


@given(initial=prose.filter(bool), bidirectional=prose.filter(bool))
def test_whatever_a_model_writes_as_json_is_read_back(initial: str, bidirectional: str) -> None:
    for ascii_only in (True, False):
        text = json.dumps(
            {"initial_reasoning": initial, "bidirectional_reasoning": bidirectional}, ensure_ascii=ascii_only
        )
        chain = parse_reasoning(text, "full", structured=True)
        assert (chain.initial, chain.bidirectional, chain.malformed) == (initial, bidirectional, {})


@given(initial=prose.filter(bool), bidirectional=prose.filter(bool), data=st.data())
def test_cut_off_json_gives_the_beginning_of_each_part(initial: str, bidirectional: str, data: Any) -> None:
    text = both(initial, bidirectional)
    chain = parse_reasoning(text[: data.draw(st.integers(1, len(text) - 1))], "full", structured=True)
    if chain.malformed.get("truncated_json"):
        assert initial.startswith(chain.initial.removesuffix("\ufffd").rstrip())
        assert bidirectional.startswith(chain.bidirectional.removesuffix("\ufffd").rstrip())


pieces = st.sampled_from(
    ['{', '}', '"', "\\", "[", ":", ",", "\n", "```", "**", "\ud800", "\x00", "initial_reasoning",
     "Initial Reasoning:", '"bidirectional_reasoning": "', "\\u12", "null", "1e999", " ", "x"]
)  # fmt: skip


@given(
    st.one_of(st.text(), st.lists(pieces, max_size=40).map("".join)),
    st.sampled_from(REASONING_SETTINGS),
    st.booleans(),
)
@settings(max_examples=400)
@example('{"initial_reasoning": ' + "[" * 100_000, "full", True)
@example('{"a":' * 100_000, "full", True)
def test_no_text_raises_and_every_result_can_be_stored(text: str, setting: Setting, structured: bool) -> None:
    chain = parse_reasoning(text, setting, structured=structured)
    for part in (chain.initial, chain.bidirectional):
        part.encode("utf-8")
        assert "\x00" not in part
    assert all(count > 0 for count in chain.malformed.values())
    parse_description(text).encode("utf-8")
    entities_text(text)


@pytest.mark.parametrize(
    "piece",
    ["*", "\n", " ", '"', "{", "[", "\\", "`", '{"a":', '"initial_reasoning":', "Initial Reasoning:", "a\n",
     "\n \n*",     'x"entities":', "1. "],
)  # fmt: skip
@pytest.mark.parametrize("opening", ["", '{"initial_reasoning": "', "Initial Reasoning: "])
def test_a_megabyte_of_garbage_is_read_in_linear_time(piece: str, opening: str) -> None:
    garbage = opening + piece * (1_000_000 // len(piece))
    begun = time.process_time()
    parse_reasoning(garbage, "full", structured=True)
    parse_description(garbage)
    entities_text(garbage)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A  moon\ncircles a planet. ", "A moon circles a planet."),
        ('"A moon circles a planet."', "A moon circles a planet."),
        ("```\nA moon.\n```", "A moon."),
        ('{"description": "A moon."}', "A moon."),
        ("", ""),
    ],
)
def test_description_is_one_clean_paragraph(text: str, expected: str) -> None:
    assert parse_description(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"bidirectional_reasoning": "B {x}", "entities": {"moon": ["Io"]}}', '{"moon": ["Io"]}'),
        ('Forward Reasoning: B.\nEntities: {"moon": ["Io"]}\nThat is all.', '{"moon": ["Io"]}'),
        ('**Entities:**\n```json\n{"moon": ["Io"]}\n```', '{"moon": ["Io"]}'),
        ('Entities: {"moon": ["Io", "Eur', '{"moon": ["Io", "Eur'),
        ('{"moon": ["Io"]}', '{"moon": ["Io"]}'),
        ("Entities: none", "none"),
    ],
)
def test_entities_of_an_answer_are_found(text: str, expected: str) -> None:
    assert entities_text(text) == expected
