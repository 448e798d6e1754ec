"""Every shape of answer that servers and models were reported to give: one small answer and its right value a kind."""

from __future__ import annotations

import gzip
import json
import os
import random
import zlib

import pytest

from cdner.config import Capabilities, Execution, parse_experiment, refuse_programs
from cdner.errors import UsageError
from cdner.llm.chat.capabilities import Dialect, put
from cdner.llm.chat.exchange import redaction
from cdner.llm.chat.notices import Notices
from cdner.llm.chat.reply import ErrorClass, Reply, ServerError, read_reply, read_usage, server_error
from cdner.llm.openai import key_for
from cdner.reasoning import entities_text, parse_reasoning
from cdner.thoughts import separate_thoughts
from cdner.types import Completion, Message, ReasoningRequest, Sampling

THOUGHT, ANSWER = "THOUGHT is it a person?", "ANSWER it is a person."
PAIRS = [
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "THINK", "Thinking", "thought", "reasoning", "seed:think")
    ),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
]


def body(message: object, finish: object = "stop", **more: object) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **more})


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("shape", ["both", "close only", "unclosed", "twice"])
def test_thoughts_are_told_from_the_answer(opening: str, closing: str, shape: str) -> None:
    text = {
        "both": f"{opening}{THOUGHT}{closing}\n\n{ANSWER}",
        "close only": f"{THOUGHT}{closing}{ANSWER}",
        "unclosed": f"{opening}{THOUGHT}",
        "twice": f"{opening}{THOUGHT}{closing}DRAFT{opening}{THOUGHT}{closing}{ANSWER}",
    }[shape]

    found = separate_thoughts(text)

    assert found.answer == ("" if shape == "unclosed" else ANSWER)
    assert "THOUGHT" in found.thoughts
    chain = parse_reasoning(text, "without_initial", structured=False)
    assert "THOUGHT" not in chain.bidirectional
    assert "thoughts" in chain.malformed


def test_a_mark_inside_a_whole_object_is_part_of_the_answer() -> None:
    text = json.dumps({"bidirectional_reasoning": "The tag </think> is quoted."})
    assert separate_thoughts(text) == (text, "")


def test_no_entities_are_read_out_of_a_thought() -> None:
    assert "{" not in entities_text('<think>maybe "entities": {"LOC": ["x"]} but')


REPLIES = [
    (body({"content": ANSWER}), ANSWER, "", "stop"),
    (body({"content": ANSWER, "reasoning_content": THOUGHT}), ANSWER, THOUGHT, "stop"),
    (body({"content": None, "reasoning": THOUGHT}, "length"), "", THOUGHT, "length"),
    (body({"content": "", "reasoning": THOUGHT, "reasoning_content": THOUGHT}), "", THOUGHT, "stop"),
    (body({"content": ANSWER, "reasoning_details": [{"type": "x", "text": THOUGHT}]}), ANSWER, THOUGHT, "stop"),
    (
        body({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                          {"type": "text", "text": ANSWER[:9]}, {"type": "text", "text": ANSWER[9:]}]}),
        ANSWER, THOUGHT, "stop",
    ),
    (body({"content": None, "tool_calls": [{"function": {"arguments": ANSWER}}]}, "tool_calls"), ANSWER, "", "stop"),
    (body({"content": ANSWER}, "model_length"), ANSWER, "", "length"),
    (body({"content": ANSWER}, "MAX_TOKENS"), ANSWER, "", "length"),
    (body({"content": ANSWER}, None), ANSWER, "", "unknown"),
    (body({"content": ANSWER[:9]}, "content_filter"), "", "", "refused"),
    (body({"content": None, "refusal": "No."}), "", "", "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer", "thoughts", "finish"), REPLIES)
def test_a_reply_is_read(text: str, answer: str, thoughts: str, finish: str) -> None:
    found = read_reply(text)
    assert isinstance(found, Reply)
    assert (found.answer, found.thoughts, found.finish) == (answer, thoughts, finish)


WORDS = "it is too much"
ERRORS = [
    (200, json.dumps({"error": {"message": WORDS, "code": 429}}), WORDS, ErrorClass.WAIT),
    (200, json.dumps({"error": {"message": WORDS, "code": "401"}, "choices": None}), WORDS, ErrorClass.STOP),
    (200, json.dumps({"error": {"message": WORDS, "type": "overloaded_error"}}), WORDS, ErrorClass.WAIT),
    (200, json.dumps({"choices": None}), "malformed answer: choices is null or empty", ErrorClass.WAIT),
    (400, json.dumps([{"error": {"code": 400, "message": WORDS}}]), WORDS, ErrorClass.GIVE_UP),
    (400, json.dumps({"error": WORDS}), WORDS, ErrorClass.GIVE_UP),
    (422, json.dumps({"detail": [{"loc": ["body"], "msg": WORDS}]}), WORDS, ErrorClass.GIVE_UP),
    (404, json.dumps({"object": "error", "message": WORDS, "code": 404}), WORDS, ErrorClass.STOP),
    (502, f"<html><head><title>{WORDS}</title></head></html>", WORDS, ErrorClass.WAIT),
    (503, WORDS, WORDS, ErrorClass.WAIT),
    (429, json.dumps({"error": {"message": WORDS, "code": "insufficient_quota"}}), WORDS, ErrorClass.STOP),
]


@pytest.mark.parametrize(("status", "text", "words", "kind"), ERRORS)
def test_an_error_is_told_in_the_servers_words(status: int, text: str, words: str, kind: ErrorClass) -> None:
    found = read_reply(text) if status == 200 else server_error(status, text)
    assert isinstance(found, ServerError)
    assert (found.words, found.kind) == (words, kind)


SENT = {
    "model": "m",
    "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
    "max_tokens": 9,
    "temperature": 0.0,
    "top_p": 1.0,
    "seed": 4,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"schema": {"properties": {"maxLength": {"type": "string", "maxLength": 4}}}},
    },
}
LESSONS = [
    (
        "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
        "max_tokens",
    ),
    ("`top_p` is deprecated for this model.", "top_p"),
    ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', "seed"),
]


@pytest.mark.parametrize(("words", "name"), LESSONS)
def test_a_refusal_teaches_which_parameter_to_leave_out(words: str, name: str) -> None:
    dialect = Dialect(Capabilities())
    assert dialect.learn(dialect.now, SENT, ServerError(words, ErrorClass.GIVE_UP, 400), shown=words)
    assert set(SENT) - set(put(SENT, dialect.now)) == {name}


def test_a_refusal_teaches_the_only_value() -> None:
    words = "Unsupported value: 'temperature' does not support 0.0. Only the default (1) value is supported."
    dialect = Dialect(Capabilities())
    assert dialect.learn(dialect.now, SENT, ServerError(words, ErrorClass.GIVE_UP, 400), shown=words)
    assert put(SENT, dialect.now)["temperature"] == 1.0


def test_a_refusal_teaches_roles_and_schemas() -> None:
    dialect = Dialect(Capabilities())
    for words in ("System role not supported", "In context=('x',), 'maxLength' is not permitted."):
        assert dialect.learn(dialect.now, SENT, ServerError(words, ErrorClass.GIVE_UP, 400), shown=words)
    found = put(SENT, dialect.now)
    assert found["messages"] == [{"role": "user", "content": "a\n\nb"}]
    properties = found["response_format"]["json_schema"]["schema"]["properties"]
    assert properties == {"maxLength": {"type": "string"}}  # a property of that name stays
    assert dialect.learn(
        dialect.now,
        SENT,
        ServerError("This response_format type is unavailable now", ErrorClass.GIVE_UP, 400),
        shown="",
    )
    assert put(SENT, dialect.now)["response_format"] == {"type": "json_object"}


def test_a_prompt_that_is_too_long_teaches_nothing() -> None:
    words = "This model's maximum context length is 4096 tokens. You requested 5290 (max_tokens 700)."
    dialect = Dialect(Capabilities())
    assert not dialect.learn(dialect.now, SENT, ServerError(words, ErrorClass.GIVE_UP, 400), shown=words)


def test_token_counts_are_clamped_and_counted() -> None:
    found = read_usage({"prompt_tokens": 2**40, "completion_tokens": -3})
    assert (found.input_tokens, found.output_tokens, found.n_repaired) == (2**31 - 1, 0, 2)


@pytest.mark.parametrize(
    ("base_url", "from_file", "expected"),
    [
        ("https://api.openai.com/v1", True, "key"),
        ("http://api.openai.com/v1", False, ""),
        ("https://elsewhere.example/v1", False, "key"),
        ("https://elsewhere.example/v1", True, ""),
        ("http://elsewhere.example/v1", False, ""),
        ("http://127.0.0.1:1/v1", False, "key"),
        ("http://127.0.0.1:1/v1", True, ""),
    ],
)
def test_the_key_goes_only_where_the_user_sends_it(base_url: str, from_file: bool, expected: str) -> None:
    execution = Execution(base_urls=(base_url,), base_urls_from_file=from_file)
    assert key_for(base_url, "key", execution) == expected


@pytest.mark.parametrize(
    "table",
    [
        {"execution": {"vllm_python": "/x/run"}},
        {"execution": {"vllm_args": ["--trust-remote-code"]}},
        {"execution": {"vllm_args": ["--worker_cls=evil.Worker"]}},
        {"vary": [{"name": "a", "keys": ["execution.vllm_python"], "values": ["/x/run"]}]},
        {"vary": [{"name": "a", "keys": ["execution.base_urls"], "values": [["http://x/v1"]]}]},
        {"execution": {"base_urls_from_file": True}},
    ],
)
def test_a_file_starts_no_program(table: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="must not"):
        refuse_programs(table, where="x.toml")


def test_a_file_may_set_harmless_options_of_vllm() -> None:
    table: dict[str, object] = {
        "name": "x",
        "execution": {"vllm_args": ["--seed=1", "--max-model-len", "8k"]},
    }
    refuse_programs(table, where="x.toml")
    assert parse_experiment(table, where="x").execution.vllm_args[0] == "--seed=1"


@pytest.mark.parametrize("n", range(270, 310))
def test_a_key_at_the_cut_is_redacted(n: int) -> None:
    key = "abcdefghijklmnopqrstuvwxyz"
    assert "abcdef" not in redaction(key)("x" * n + key)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bytes])
def test_an_answer_has_an_upper_bound(pack: object) -> None:
    import httpx2

    from cdner.llm.chat.bounded import BoundedTransport, Bounds, TooLargeError

    bounds = Bounds()
    bounds.most_bytes = 1000

    def answer(request: httpx2.Request) -> httpx2.Response:
        encoding = {"content-encoding": "gzip"} if pack is not bytes else {}
        return httpx2.Response(200, headers=encoding, content=iter([pack(bytes(10**6))]))  # type: ignore[operator]

    transport = BoundedTransport(httpx2.MockTransport(answer), bounds)
    with httpx2.Client(transport=transport) as client, pytest.raises(TooLargeError):
        client.get("http://x")


N = int(os.environ.get("CDNER_FUZZ_REPLIES", "10000"))
VALUES: list[object] = [
    None,
    "",
    0,
    -1,
    2**40,
    1e300,
    True,
    [],
    {},
    [[]],
    "stop",
    "length",
    {"text": "a"},
    ["x", None],
]


def test_no_reply_raises_and_no_thought_becomes_an_answer() -> None:
    chance = random.Random(5)
    for _ in range(N):
        opening, closing = chance.choice(PAIRS)
        content: object = chance.choice(
            [
                f"{opening}{THOUGHT}{closing}{ANSWER}",
                f"{THOUGHT}{closing}{ANSWER}",
                f"{opening}{THOUGHT}",
                ANSWER,
                None,
            ]
        )
        if isinstance(content, str) and chance.random() < 0.3:
            content = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": content}]
        message: dict[str, object] = {"content": content}
        for name in ("reasoning", "reasoning_content", "reasoning_details", "refusal", "tool_calls"):
            if chance.random() < 0.2:
                message[name] = (
                    THOUGHT if name != "refusal" and name != "tool_calls" else chance.choice(VALUES)
                )
        whole: dict[str, object] = {
            "choices": [{"message": message, "finish_reason": chance.choice(VALUES)}],
            "usage": {"prompt_tokens": chance.choice(VALUES), "completion_tokens": chance.choice(VALUES)},
        }
        if chance.random() < 0.2:
            whole[chance.choice(["choices", "usage", "error", "output", "content"])] = chance.choice(VALUES)
        text = json.dumps(whole)
        if chance.random() < 0.1:
            text = text[: chance.randrange(len(text))]
        found = read_reply(text)
        if isinstance(found, Reply):
            assert "THOUGHT" not in found.answer, text
            assert 0 <= found.usage.output_tokens < 2**31


KEY = "sk-or-a-key-of-another-kind-0123456789"


@pytest.mark.parametrize(
    "shape", ["{}", '{{"error": "{}"}}', '{{"error": {{"code": "{}"}}}}', "<p>{}</p>", '["{}"]']
)
def test_a_key_in_an_error_is_taken_out_before_the_error_is_cut(shape: str) -> None:
    """A server may echo the key anywhere; a key that is cut in two would not be found."""
    for key in (KEY, KEY.removeprefix("sk-")):
        for before in (*range(60, 340), 4990, 19_990):
            error = read_reply(shape.format("x" * before + key + " and more"))
            assert isinstance(error, ServerError)
            assert key[:12] not in redaction(key)(error.words)


def test_a_key_that_is_a_placeholder_does_not_tear_words_apart() -> None:
    line = redaction("x")("maximum context: key x, next")
    assert line == "maximum context: key [key], next"


def test_a_server_that_cuts_prompts_off_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Usage says 2,048 tokens for prompts of different lengths, as Ollama does with its default context."""

    def heard(*reads: tuple[int, int]) -> int:
        caplog.clear()
        notices = Notices()
        for n_words, tokens in reads:
            request = ReasoningRequest((Message("user", "word " * n_words),), Sampling(100))
            notices.take_in(request, Completion("text", "stop", tokens, 0, 5), n_repaired=0)
        return sum("it cuts prompts off" in record.message for record in caplog.records)

    assert heard((2100, 2048), (2300, 2048), (2500, 2048)) == 1  # said once
    assert heard((9000, 2048)) == 1  # fewer tokens than such a text can have
    assert heard((2048, 2048), (2048, 2048)) == 0  # one length, one number
    assert heard((2050, 2051), (2300, 2301), (2500, 2502)) == 0
    assert heard((2100, 2101), (2300, 2101)) == 0  # no context has that length: a coincidence
    assert heard((200, 256), (300, 256)) == 0  # too short to say
