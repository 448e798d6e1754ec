"""``cdner serve-model``: over HTTP as in Python, in batches, within limits; and Label Studio's protocol."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pipeline_experiments import cdner, copy_of, finished_store, sql, start_cdner

from cdner import Recognizer
from cdner.api import FoundEntity, Text
from cdner.errors import InputError
from cdner.serving.app import Limits, Service, make_app
from cdner.serving.batching import Batcher, FullError
from cdner.serving.label_studio import Interface, read_interface

CONFIG = (
    '<View><Labels name="ner" toName="doc"><Label value="song"/></Labels>'
    '<Text name="doc" value="$body"/></View>'
)
KEY = "a-key-of-this-test"


def first_word(texts: Sequence[Text]) -> list[list[FoundEntity]]:
    """Stands where a model does: the first word of each sentence is a song, 0.9."""
    words = [text.split(" ")[0] if isinstance(text, str) else text[0] for text in texts]
    return [[FoundEntity(word, "song", 0, len(word), 0, 1, 0.9, "album")] if word else [] for word in words]


class Server:
    """A service on a free port of this machine."""

    def __init__(self, predict: Any = first_word, *, most_waiting: int = 1000, **service: Any) -> None:
        self.batches: list[int] = []

        def counted(texts: Sequence[Text]) -> list[list[FoundEntity]]:
            self.batches.append(len(texts))
            return predict(texts)  # type: ignore[no-any-return]

        self.batcher = Batcher(counted, most_texts=16, most_waiting=most_waiting)
        app = make_app(Service(self.batcher, "own:without_all", ("song", "album"), **service))
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_keep_alive=5))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def close(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join()
        self.batcher.close()


@pytest.fixture
def opened() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.close()


def serve(opened: list[Server], *arguments: Any, **options: Any) -> Server:
    opened.append(Server(*arguments, **options))
    return opened[-1]


# --- predictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"text": "Hey Jude"}, ["Hey"]),
        ({"tokens": ["Hey", "Jude"]}, ["Hey"]),
        ({"texts": ["Hey Jude", "Help", ""]}, ["Hey", "Help", None]),
        ({"token_lists": [["Let", "It"], ["Be"]]}, ["Let", "Be"]),
        ({"texts": []}, []),
    ],
)
def test_sentences_are_answered_in_their_order(asked: Any, words: Any, opened: list[Server]) -> None:
    answer = serve(opened).http.post("/predict", json=asked)
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "own:without_all"
    assert [entities[0]["text"] if entities else None for entities in body["results"]] == words
    whole = {"type": "song", "start": 0, "start_token": 0, "end_token": 1, "score": 0.9, "runner_up": "album"}
    assert all(entities[0].items() >= whole.items() for entities in body["results"] if entities)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give one of text, tokens, texts, token_lists"),
        ({"text": "a", "texts": ["b"]}, "give one of text, tokens, texts, token_lists"),
        ({"text": 3}, "text"),
        ({"words": ["a"]}, "words"),
        ({"texts": ["a"] * 5}, "at most 4 sentences, not 5"),
        ({"text": "a" * 101}, "at most 100 characters, not 101"),
        ({"tokens": ["a b"]}, "sentence 0: a token is empty or holds white space"),
        (b"not JSON", "JSON"),
        (b"[1]", "dictionary or object"),
    ],
)
def test_what_cannot_be_answered_is_one_line_that_says_why(
    asked: Any, said: str, opened: list[Server]
) -> None:
    server = serve(opened, limits=Limits(texts=4, characters=100))
    content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    answer = server.http.post("/predict", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and server.batches == []
    assert said in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_requests_that_come_together_are_one_batch(opened: list[Server]) -> None:
    entered, free = threading.Event(), threading.Event()

    def slow(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        entered.set()
        free.wait()
        return first_word(texts)

    server = serve(opened, slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(server.http.post, "/predict", json={"text": "first"})
        entered.wait()
        others = [pool.submit(server.http.post, "/predict", json={"text": f"n{i} x"}) for i in range(8)]
        while server.batcher.n_waiting < 8:
            time.sleep(0.01)
        free.set()
        answers = [one.result().json()["results"][0][0]["text"] for one in (first, *others)]
    assert answers == ["first", *(f"n{i}" for i in range(8))]
    assert server.batches == [1, 8]


def test_what_nobody_expects_is_one_line_of_json_too(opened: list[Server]) -> None:
    def broken(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        raise ZeroDivisionError("inside")

    server = serve(opened, broken)
    failed = server.http.post("/predict", json={"text": "a"})
    assert failed.status_code == 500 and failed.json()["error"].startswith(
        "the model failed (ZeroDivisionError)"
    )
    assert "inside" not in failed.text
    missing, wrong = server.http.get("/no/such/address"), server.http.get("/predict")
    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"error": "Method Not Allowed"})
    assert server.http.get("/").json() == server.http.get("/health").json()


def test_what_fails_fails_alone() -> None:
    def picky(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        if "bad" in texts:
            raise InputError("this sentence cannot be read.")
        return first_word(texts)

    entered, free = threading.Event(), threading.Event()

    def held(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        entered.set()
        free.wait()
        return picky(texts)

    batcher = Batcher(held, most_texts=16, most_waiting=100)
    batcher.submit(["first"])
    entered.wait()  # the other three wait, and become one batch
    futures = [batcher.submit([text]) for text in ("good one", "bad", "good two")]
    free.set()
    assert [futures[0].result()[0][0].text, futures[2].result()[0][0].text] == ["good", "good"]
    assert isinstance(futures[1].exception(), InputError)
    batcher.close()
    with pytest.raises(FullError):
        batcher.submit(["late"])


def test_too_many_waiting_are_refused_and_the_others_answered(opened: list[Server]) -> None:
    free = threading.Event()

    def slow(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        free.wait()
        return first_word(texts)

    server = serve(opened, slow, most_waiting=2)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(server.http.post, "/predict", json={"text": "a b"}) for _ in range(12)]
        while sum(one.done() for one in asked) < 8:
            time.sleep(0.01)
        free.set()
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) >= 8 and all("too many sentences wait" in one.json()["error"] for one in refused)
    assert all(one.headers["retry-after"] == "1" for one in refused)
    assert {answer.status_code for answer in answers} == {200, 503}


def test_an_answer_that_takes_too_long_is_given_up(opened: list[Server]) -> None:
    free = threading.Event()

    def slow(texts: Sequence[Text]) -> list[list[FoundEntity]]:
        free.wait(5)
        return first_word(texts)

    server = serve(opened, slow, limits=Limits(seconds=0.2))
    answer = server.http.post("/predict", json={"text": "a"})
    free.set()
    assert answer.status_code == 504 and "no answer within 0.2 seconds" in answer.json()["error"]
    assert server.http.post("/predict", json={"text": "b c"}).json()["results"][0][0]["text"] == "b"


# --- bodies -------------------------------------------------------------------------------------------------


def test_an_oversized_body_is_refused_before_it_is_read(opened: list[Server]) -> None:
    server = serve(opened, limits=Limits(most_bytes=1000))
    answer = server.http.post("/predict", content=b"x" * 1001)
    assert answer.status_code == 413 and "at most 1,000 bytes" in answer.json()["error"]
    chunks = (b"x" * 600 for _ in range(2))
    assert server.http.post("/predict", content=chunks).status_code == 413  # no length is announced
    assert server.http.get("/health").status_code == 200


def test_a_slow_client_is_let_go_and_holds_up_nobody(opened: list[Server]) -> None:
    server = serve(opened, limits=Limits(seconds=0.5))
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert server.http.post("/predict", json={"text": "a b"}).status_code == 200
        slow.settimeout(5)
        said = b""
        while part := slow.recv(4096):
            said += part
    assert b" 408 " in said.split(b"\r\n")[0] and b"within 0.5 seconds" in said


def test_a_client_that_leaves_costs_nothing(opened: list[Server]) -> None:
    server = serve(opened)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert server.http.post("/predict", json={"text": "a b"}).status_code == 200


# --- key, metrics -------------------------------------------------------------------------------------------


def test_with_a_key_everything_but_health_needs_it(opened: list[Server]) -> None:
    server = serve(opened, key=KEY)
    paths = ("/metrics", "/openapi.json", "/docs")
    assert {server.http.get(path).status_code for path in paths} == {401}
    assert server.http.post("/predict", json={"text": "a"}).status_code == 401
    assert server.http.get("/health").json()["status"] == "UP"
    wrong = [f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Basic !!!", "Bearer x"]
    for given in wrong:
        answer = server.http.post("/predict", json={"text": "a"}, headers={"Authorization": given})
        assert answer.status_code == 401 and "needs its key" in answer.json()["error"]
    right = server.http.post("/predict", json={"text": "a"}, headers={"Authorization": f"Bearer {KEY}"})
    basic = server.http.post("/predict", json={"text": "a"}, auth=("label-studio", KEY))
    assert right.status_code == basic.status_code == 200
    assert KEY not in repr(Service(server.batcher, "m", (), key=KEY))


def test_metrics_count_what_was_asked(opened: list[Server]) -> None:
    server = serve(opened)
    server.http.post("/predict", json={"texts": ["a", "b"]})
    server.http.post("/predict", json={})
    server.http.get("/no/such/address")
    lines = server.http.get("/metrics").text.splitlines()
    assert 'cdner_requests_total{path="/predict",status="200"} 1' in lines
    assert 'cdner_requests_total{path="/predict",status="422"} 1' in lines
    assert 'cdner_requests_total{path="other",status="404"} 1' in lines
    assert "cdner_texts_total 2" in lines and "cdner_waiting_texts 0" in lines


# --- Label Studio -------------------------------------------------------------------------------------------


def test_tasks_are_answered_with_regions_in_the_names_of_the_project(opened: list[Server]) -> None:
    asked = {
        "tasks": [{"id": 7, "data": {"body": "Hey Jude"}}, {"id": 8, "data": {"body": ""}}],
        "label_config": CONFIG,
        "project": "1.1",
        "params": {"login": None},
    }
    body = serve(opened).http.post("/predict", json=asked).json()
    first, second = body["results"]
    assert first == {
        "model_version": "own:without_all",
        "score": 0.9,
        "result": [
            {
                "id": "cdner-0-3",
                "from_name": "ner",
                "to_name": "doc",
                "type": "labels",
                "value": {"start": 0, "end": 3, "text": "Hey", "labels": ["song"]},
                "score": 0.9,
            }
        ],
    }
    assert second["result"] == [] and body["model_version"] == "own:without_all"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View", "label_config is not XML"),
        ("<View><Image name='i' value='$i'/></View>", "has no <Labels> of a <Text>"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "declares entities"),
        ("<View/>" + " " * 100_000, "too long"),
    ],
)
def test_a_project_that_does_not_fit_is_told_so(config: str, said: str, opened: list[Server]) -> None:
    answer = serve(opened).http.post("/setup", json={"project": "1", "schema": config})
    assert answer.status_code == 422 and said in answer.json()["error"]


def test_set_up_says_the_version_and_a_task_without_text_is_named(opened: list[Server]) -> None:
    server = serve(opened)
    assert server.http.post("/setup", json={"schema": CONFIG}).json()["model_version"] == "own:without_all"
    assert read_interface("") == Interface() and read_interface(CONFIG) == Interface("ner", "doc", "body")
    answer = server.http.post("/predict", json={"tasks": [{"id": 9, "data": {}}], "label_config": CONFIG})
    assert answer.status_code == 422 and "task 9: data has no text under 'body'" in answer.json()["error"]


def test_training_is_recorded_or_refused(opened: list[Server], tmp_path: Path) -> None:
    refused = serve(opened).http.post("/train", json={"project": 1})
    assert refused.status_code == 422 and "--jobs FOLDER" in refused.json()["error"]
    server = serve(opened, jobs=tmp_path)
    job = server.http.post("/train", json={"project": 1}).json()["job"]
    server.http.post("/webhook", json={"action": "ANNOTATION_CREATED", "task": {"id": 3}})
    train, webhook = map(json.loads, (tmp_path / "jobs.jsonl").read_text(encoding="utf-8").splitlines())
    assert (train["job"], train["kind"], train["asked"]) == (job, "train", {"project": 1})
    assert (webhook["kind"], webhook["model"]) == ("ANNOTATION_CREATED", "own:without_all")


# --- under load, and as a command ---------------------------------------------------------------------------


def test_fifty_clients_get_their_own_answers(opened: list[Server]) -> None:
    server = serve(opened, most_waiting=40)
    limits = httpx.Limits(max_connections=50)
    with httpx.Client(base_url=server.http.base_url, limits=limits, timeout=30, trust_env=False) as http:

        def ask(number: int) -> str:
            texts = [f"w{number}x{i} end" for i in range(number % 5 + 1)]
            answer = http.post("/predict", json={"texts": texts})
            if answer.status_code == 503:
                return "refused" if "too many sentences wait" in answer.text else "unclear"
            found = [entities[0]["text"] for entities in answer.json()["results"]]
            return "right" if found == [text.split()[0] for text in texts] else "wrong"

        with ThreadPoolExecutor(50) as pool:
            outcomes = list(pool.map(ask, range(1500)))
    assert set(outcomes) <= {"right", "refused"} and outcomes.count("right") > 100
    assert max(server.batches) > 5  # one request has at most five sentences: batches were shared


def test_the_command_serves_what_python_predicts(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    ((run_id,),) = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'train:without_all'")
    texts = ["Mira Olsen left Port Vanter .", "Low Tide was filmed in Ostend ."]
    with Recognizer.load(store, run_id) as recognizer:
        expected = [[entity.text for entity in one] for one in recognizer.predict(texts)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_cdner(store, "serve-model", run_id, "--port", port, log=tmp_path / "log")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            for _ in range(600):
                try:
                    http.get("/health")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            body = http.post("/predict", json={"texts": texts}).json()
    finally:
        process.terminate()
        process.join(30)
    assert [[entity["text"] for entity in one] for one in body["results"]] == expected


def test_other_addresses_demand_a_key_and_models_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDNER_SERVE_KEY", raising=False)
    shown = cdner(tmp_path / "s.duckdb", "serve-model", "own:full", "--host", "0.0.0.0")
    assert shown.code == 2 and "set CDNER_SERVE_KEY" in shown.err
    narrow = cdner(tmp_path / "s.duckdb", "serve-model", "own:full", "--max-texts", "9", "--max-waiting", "8")
    assert narrow.code == 2 and "cannot have more sentences than may wait (8)" in narrow.err
    missing = cdner(tmp_path / "s.duckdb", "serve-model", "own:full")
    assert missing.code != 0 and "There is no store" in missing.err
