"""Requests with choices over real HTTP: what is asked, what is read, and what a server may do wrong."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from chat_servers import ChatServer, Reply, said, serving

from cdner.choices import ChoiceScores, read_scores
from cdner.errors import BackendError
from cdner.llm.chat import Budget, ChatClient, Server
from cdner.llm.chat.choice_dialogue import TOP, ChoiceDialogue, ServerManner, read_figures
from cdner.llm.chat.exchange import chat_arguments
from cdner.llm.prices import Price
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

CHOICES = (" person", " place", " musical artist", " musical instrument")
Tree = Mapping[str, Mapping[str, float]]  # what the assistant has said -> next token -> probability
FLAT: Tree = {"Type:": {" person": 0.5, " place": 0.25, " then": 0.125}}
SHARED: Tree = {
    "Type:": {" person": 0.5, " musical": 0.25, " pl": 0.01},
    "Type: musical": {" artist": 0.5, " instrument": 0.125, " person": 0.1},
}


def ask(
    choices: Sequence[str] = CHOICES, *, text: str = "Mira Olsen left .", last: str | None = "Type:"
) -> ReasoningRequest:
    spoken = () if last is None else (Message("assistant", last),)
    messages = (Message("system", "fixed"), Message("user", text), *spoken)
    return ReasoningRequest(messages, Sampling(max_tokens=4, choices=tuple(choices)))


def entry(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "bytes": list(token.encode()), "logprob": math.log(probability)}


def answered(entries: Any, **choice: Any) -> Reply:
    """A first token with these alternatives."""
    body = json.loads(said("").body)
    log_probs = {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": entries}]}
    body["choices"][0] |= {"logprobs": log_probs, "finish_reason": "length"} | choice
    return Reply(body=json.dumps(body))


def following(tree: Tree) -> Any:
    return lambda text, _: answered([entry(*pair) for pair in tree.get(text, {}).items()] or [entry("?", 1)])


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as state:
        yield state


def client(server: ChatServer, **options: Any) -> ChatClient:
    return ChatClient([Server(server.url)], model="m", concurrency=1, timeout=10.0, **options)


def outcome(server: ChatServer, request: ReasoningRequest, **options: Any) -> Completion | Gap:
    ((_, found),) = client(server, **options).complete([request])
    return found


def scores(server: ChatServer, request: ReasoningRequest, **options: Any) -> ChoiceScores:
    found = outcome(server, request, **options)
    assert isinstance(found, Completion), found
    return read_scores(found.text, n_choices=len(request.sampling.choices))


def probabilities(found: ChoiceScores) -> list[float | None]:
    return [None if value is None else pytest.approx(math.exp(value), rel=1e-3) for value in found.log_probs]


# --- what is asked and read --------------------------------------------------------------------------------


def test_one_token_with_its_alternatives_is_asked_for(server: ChatServer) -> None:
    server.reply = following(FLAT)
    found = scores(server, ask(CHOICES[:2]))
    assert probabilities(found) == [0.5, 0.25]
    assert (found.origin, found.n_missing, found.n_invalid) == ("top_logprobs", 0, 0)
    (body,) = server.seen
    assert {name: body[name] for name in ("max_tokens", "logprobs", "top_logprobs", "temperature")} == {
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": TOP,
        "temperature": 0.0,
    }
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["messages"][-1] == {"role": "assistant", "content": "Type:"}


def test_without_a_last_message_of_the_assistant_nothing_is_continued(server: ChatServer) -> None:
    server.reply = lambda _text, _attempt: answered([entry("person", 0.5), entry("Place", 0.5)])
    assert probabilities(scores(server, ask(CHOICES[:2], last=None))) == [0.5, None]
    assert "continue_final_message" not in server.seen[0]


def test_a_choice_has_the_figure_of_the_longest_token_it_begins_with(server: ChatServer) -> None:
    server.reply = following(
        {"Type:": {" p": 0.2, " person": 0.3, " per": 0.1, " place": 0.1, " persons": 0.1}}
    )
    assert probabilities(scores(server, ask(CHOICES[:2]))) == [0.3, 0.1]


def test_choices_that_begin_alike_are_told_apart_by_a_second_question(server: ChatServer) -> None:
    server.reply = following(SHARED)
    answer = outcome(server, ask())
    assert isinstance(answer, Completion)
    found = read_scores(answer.text, n_choices=len(CHOICES))
    assert probabilities(found) == [0.5, None, 0.125, 0.03125]
    assert sum(math.exp(value) for value in found.log_probs if value is not None) <= 1
    assert "Type: musical" in [body["messages"][-1]["content"] for body in server.seen]
    n = len(server.seen)
    assert (answer.input_tokens, answer.output_tokens) == (11 * n, 3 * n)
    assert answer.finish_reason == "stop"


def test_a_choice_that_begins_another_keeps_what_that_leaves(server: ChatServer) -> None:
    server.reply = following(
        {"Type:": {" Port": 0.5, " person": 0.25}, "Type: Port": {" Vanter": 0.25, ".": 0.5}}
    )
    found = scores(server, ask((" Port", " Port Vanter", " person")))
    assert probabilities(found) == [0.5 * 0.75, 0.5 * 0.25, 0.25]


def test_a_word_that_only_begins_like_a_choice_is_not_taken_for_it(server: ChatServer) -> None:
    """ " the" is not how " theory" is written, and " prog" is how " programlang" is."""
    server.reply = following(
        {
            "Type:": {" the": 0.5, " prog": 0.25, " person": 0.125},
            "Type: the": {" name": 0.9, "ory": 0.001},
            "Type: prog": {"ramlang": 0.5, "ress": 0.25},
        }
    )
    with_both = ask((" theory", " programlang", " person"))
    asker = client(server)
    for _ in range(3):
        ((_, found),) = asker.complete([with_both])
        assert isinstance(found, Completion)
        assert probabilities(read_scores(found.text, n_choices=3)) == [None, 0.25, 0.125]
    asked = [body["messages"][-1]["content"] for body in server.seen]
    assert (asked.count("Type: the"), asked.count("Type: prog")) == (1, 1)  # remembered


def test_a_blank_is_not_the_beginning_of_a_choice_that_is_written_without_it(server: ChatServer) -> None:
    server.reply = following({"Type:": {" ": 0.5, " person": 0.25}, "Type: ": {"7": 0.9, "place": 0.001}})
    assert probabilities(scores(server, ask(CHOICES[:2]))) == [0.25, None]


def test_a_tokenizer_that_writes_the_blank_by_itself_is_followed(server: ChatServer) -> None:
    server.reply = following({"Type:": {" ": 0.5, "\n": 0.25}, "Type: ": {"person": 0.5, "place": 0.25}})
    assert probabilities(scores(server, ask(CHOICES[:2]))) == [0.25, 0.125]


def test_leading_blanks_are_left_out_where_no_token_has_them(server: ChatServer) -> None:
    server.reply = following({"Type:": {"person": 0.5, "place": 0.25, "\nperson": 0.1}})
    assert probabilities(scores(server, ask(CHOICES[:2]))) == [0.5, 0.25]


def test_with_leading_blanks_a_word_without_is_another_text(server: ChatServer) -> None:
    server.reply = following({"Type:": {" person": 0.25, "place": 0.5}})
    assert probabilities(scores(server, ask(CHOICES[:2]))) == [0.25, None]


def test_bytes_count_where_a_text_cannot_hold_them(server: ChatServer) -> None:
    whole = {"token": "\ufffd", "bytes": list(" Ärzte".encode()), "logprob": math.log(0.5)}
    half = {"token": "\ufffd", "bytes": [0x20, 0xC3], "logprob": math.log(0.125)}
    server.reply = lambda _text, _attempt: answered([whole, half, entry(" person", 0.25)])
    # No message can be continued by half a character: what begins so is not known.
    assert probabilities(scores(server, ask((" Ärzte", " Öl", " person")))) == [0.5, None, 0.25]


# --- servers that do not continue --------------------------------------------------------------------------


def test_openai_is_asked_without_the_assistants_message() -> None:
    dialogue = ChoiceDialogue(ask(), ServerManner(continues=False))
    assert [message.role for message in dialogue.request.messages] == ["system", "user"]
    arguments = chat_arguments(dialogue.request, model="m", official=True)
    assert arguments["max_completion_tokens"] == 1 and arguments["logprobs"] is True
    assert "extra_body" not in arguments


def test_what_takes_a_second_question_is_missing_there(server: ChatServer) -> None:
    body = answered([entry("person", 0.5), entry("musical", 0.25), entry("pl", 0.125)]).body
    dialogue = ChoiceDialogue(ask(), ServerManner(continues=False))
    assert dialogue.request
    end = dialogue.hear(Completion("", "length", 1, 0, 1), body)
    assert isinstance(end, Completion)
    found = read_scores(end.text, n_choices=4)
    assert probabilities(found) == [0.5, 0.125, None, None]  # never the shared figure twice
    assert found.n_missing == 2


def test_a_server_that_refuses_the_continuation_is_asked_without(server: ChatServer) -> None:
    def reply(text: str, _attempt: int) -> Reply:
        if text == "Type:":
            return Reply(400, json.dumps({"error": {"message": "continue_final_message: extra field"}}))
        return answered([entry("person", 0.5)])

    server.reply = reply
    asker = client(server)
    for _ in range(2):
        ((_, found),) = asker.complete([ask(CHOICES[:2])])
        assert isinstance(found, Completion)
    assert [body["messages"][-1]["role"] for body in server.seen] == ["assistant", "user", "user"]


def test_a_request_refused_either_way_is_a_gap(server: ChatServer) -> None:
    server.reply = lambda _text, _attempt: Reply(400, json.dumps({"error": {"message": "too long"}}))
    found = outcome(server, ask())
    assert isinstance(found, Gap) and "too long" in found.reason
    assert len(server.seen) == 2


# --- servers that send no log-probabilities ----------------------------------------------------------------


def choosing(text: str) -> Any:
    def reply(asked: str, _attempt: int) -> Reply:
        body = json.loads(said(asked).body)
        body["choices"][0]["message"]["content"] = text if asked != "Type:" else "x"
        return Reply(body=json.dumps(body))

    return reply


@pytest.mark.parametrize("sent", ["absent", None, {}, {"content": None}, {"content": []}, []])
def test_a_server_that_drops_them_is_asked_to_choose_and_says_so_once(
    server: ChatServer, caplog: pytest.LogCaptureFixture, sent: Any
) -> None:
    usual = choosing('{"choice":"musical artist"}')

    def reply(text: str, attempt: int) -> Reply:
        body = json.loads(usual(text, attempt).body)
        if sent != "absent":
            body["choices"][0]["logprobs"] = sent
        return Reply(body=json.dumps(body))

    server.reply = reply
    with caplog.at_level(logging.WARNING, logger="cdner"):
        found = list(client(server).complete([ask(), ask(text="Another one .")]))
    for _, answer in found:
        assert isinstance(answer, Completion)
        found_scores = read_scores(answer.text, n_choices=4)
        assert found_scores.origin == "sampled"
        assert probabilities(found_scores) == [0.125, 0.125, 0.625, 0.125]
    assert len([record for record in caplog.records if "log-probabilities" in record.message]) == 1
    assert len(server.seen) == 3  # the first request alone tries it
    schema = server.seen[1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["choice"]["enum"] == [choice.strip() for choice in CHOICES]
    assert "logprobs" not in server.seen[1] and server.seen[1]["messages"][-1]["role"] == "user"


@pytest.mark.parametrize("text", ["place", " place\n", '"place"', '{"choice": " place "}'])
def test_a_bare_name_is_understood(server: ChatServer, text: str) -> None:
    server.reply = choosing(text)
    figures = [value or 0.0 for value in scores(server, ask()).log_probs]
    assert figures[1] == max(figures) > math.log(0.5) > sorted(figures)[-2]


def test_choosing_several_times_gives_shares(server: ChatServer) -> None:
    """Three times another seed at temperature 1; an answer that is none of the choices is counted and no vote."""
    answers = iter(["place", "place", "a boat", "person"])

    def reply(asked: str, attempt: int) -> Reply:
        return choosing("x" if asked == "Type:" else next(answers))(asked, attempt)

    server.reply = reply
    request = ask()
    request = replace(request, sampling=replace(request.sampling, n_choosings=4, seed=7))
    found = scores(server, request)
    names = [choice.strip() for choice in CHOICES]
    votes = {"place": 2, "person": 1}
    expected = [(votes.get(name, 0) + 1 / 4) / 4 for name in names]
    assert probabilities(found) == expected
    assert (found.origin, found.n_invalid) == ("sampled", 1)
    asked = [(body["seed"], body["temperature"]) for body in server.seen[1:]]
    assert asked == [(7, 1.0), (8, 1.0), (9, 1.0), (10, 1.0)]


@pytest.mark.parametrize("text", ["a place", '{"choice": "club"}', '{"choice": 3}', "[]", "{", "[" * 99999])
def test_anything_else_chooses_nothing(server: ChatServer, text: str) -> None:
    server.reply = choosing(text)
    found = outcome(server, ask())
    assert isinstance(found, Gap) and "none of the choices" in found.reason and len(found.reason) < 200


def test_one_answer_without_them_among_others_is_a_gap(server: ChatServer) -> None:
    def reply(text: str, attempt: int) -> Reply:
        usual: Reply = following(FLAT)(text, attempt)
        return usual if attempt == 1 else said(text)

    server.reply = reply
    outcomes = dict(client(server).complete([ask(CHOICES[:2]), ask(CHOICES[:2], text="b")]))
    gap = outcomes[1]
    assert isinstance(gap, Gap) and "log-probabilities" in gap.reason
    assert isinstance(outcomes[0], Completion)


# --- figures from a stranger -------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-Infinity", '"-0.5"', "null", "true", "0.5", "[]"])
def test_what_cannot_be_a_log_probability_is_counted_and_no_figure(server: ChatServer, figure: str) -> None:
    good = json.dumps(entry(" person", 0.5))
    bad = f'{{"token": " place", "bytes": null, "logprob": {figure}}}'
    body = answered(["HERE"]).body.replace('"HERE"', f"{good}, {bad}")
    server.reply = lambda _text, _attempt: Reply(body=body)
    found = scores(server, ask(CHOICES[:2]))
    assert probabilities(found) == [0.5, None]
    assert found.n_invalid == 1


@pytest.mark.parametrize(
    ("entries", "n_invalid"),
    [
        ("text", 1),
        (7, 1),
        ([], 1),
        (None, 1),
        ({"token": " person", "logprob": -1.0}, 1),
        ([None, "x", [], {}], 4),
        ([{"token": " person"}, {"logprob": -1.0}, {"token": "", "logprob": -1.0}], 3),
        ([{"token": 5, "bytes": ["a"], "logprob": -1.0}], 1),
    ],
)
def test_an_answer_of_another_shape_gives_no_figures(
    server: ChatServer, entries: Any, n_invalid: int
) -> None:
    server.reply = lambda _text, _attempt: answered(entries)
    found = scores(server, ask(CHOICES[:2]))
    assert found == ChoiceScores((None, None), "top_logprobs", n_invalid)


def test_a_token_with_two_figures_has_none(server: ChatServer) -> None:
    twice = [entry(" person", 0.5), entry(" place", 0.125), entry(" person", 0.25)]
    server.reply = lambda _text, _attempt: answered(twice)
    found = scores(server, ask(CHOICES[:2]))
    assert probabilities(found) == [None, 0.125] and found.n_invalid == 2


def test_the_same_entry_twice_is_one() -> None:
    assert read_figures([entry(" a", 0.5), entry(" a", 0.5)]) == ({b" a": math.log(0.5)}, 0)


def test_tokens_that_hold_part_of_a_character_are_left_out() -> None:
    halves = [entry("\ufffd", 0.25), entry("\ufffd", 0.125)]
    assert read_figures([*halves, entry(" a", 0.5)]) == ({b" a": math.log(0.5)}, 0)


def test_figures_that_sum_to_more_than_one_are_no_probabilities(server: ChatServer) -> None:
    """Some servers send 0 for every token: nothing is certain because of that."""
    server.reply = lambda _text, _attempt: answered([entry(" person", 1), entry(" place", 1)])
    found = scores(server, ask(CHOICES[:2]))
    assert found == ChoiceScores((None, None), "top_logprobs", 2)


def test_the_mark_for_improbable_tokens_is_no_figure() -> None:
    improbable = {"token": " b", "logprob": -9999.0}
    assert read_figures([entry(" a", 0.5), improbable]) == ({b" a": math.log(0.5)}, 0)


def test_choices_without_a_figure_are_missing_and_nothing_else(server: ChatServer) -> None:
    server.reply = lambda _text, _attempt: answered([entry(" person", 0.5)])  # fewer than were asked for
    found = scores(server, ask())
    assert probabilities(found) == [0.5, None, None, None]
    assert (found.n_missing, found.n_invalid) == (3, 0)


# --- as for texts ------------------------------------------------------------------------------------------


def test_a_failure_that_passes_is_tried_again_in_the_middle(server: ChatServer) -> None:
    usual = following(SHARED)
    server.reply = lambda text, n: Reply(503) if text == "Type: musical" and n == 1 else usual(text, n)
    assert probabilities(scores(server, ask()))[2:] == [0.125, 0.03125]


def test_every_question_counts_for_the_budget(server: ChatServer) -> None:
    server.reply = following(SHARED)
    budget = Budget(max_requests=1)
    found = outcome(server, ask(CHOICES[2:]), budget=budget)
    assert isinstance(found, Gap) and "--max-requests" in found.reason
    assert len(server.seen) == budget.n_requests == 1


def test_costs_of_all_questions_are_summed(server: ChatServer) -> None:
    server.reply = following(SHARED)
    budget = Budget()
    price = Price(input=1.0, cached_input=1.0, output=2.0)
    found = outcome(server, ask(CHOICES[2:]), budget=budget, price=price)
    assert isinstance(found, Completion) and len(server.seen) == 2
    assert found.cost_usd == pytest.approx(2 * (11 + 2 * 3) / 1e6) == pytest.approx(budget.spent)


def test_unfinished_dialogues_go_before_new_requests(server: ChatServer) -> None:
    """So that a kill loses no more than was on its way."""
    server.reply = following(SHARED)
    outcomes = client(server).complete([ask(CHOICES[2:], text=f"{n}") for n in range(5)])
    next(outcomes)
    assert len(server.seen) == 2
    list(outcomes)
    assert len(server.seen) == 10


def test_texts_and_choices_in_one_call_keep_their_index(server: ChatServer) -> None:
    usual = following(SHARED)
    server.reply = lambda text, n: said(text) if text == "plain" else usual(text, n)
    plain = ReasoningRequest((Message("user", "plain"),), Sampling(max_tokens=9))
    found = dict(client(server).complete([ask(), plain, ask(CHOICES[:1])]))
    text = found[1]
    assert isinstance(text, Completion) and text.text == "answer to plain"
    assert len(found) == 3


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (ask((" a", "a ")), "twice"),
        (ask((" a", " ")), "empty"),
        (ReasoningRequest(ask().messages, ask().sampling, "{}"), "schema"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused_before_any_is_sent(
    server: ChatServer, request_: ReasoningRequest, complaint: str
) -> None:
    with pytest.raises(BackendError, match=complaint):
        list(client(server).complete([ask(), request_]))
    assert server.seen == []
