"""A tagger reads and learns each word's tag at its first sub-token; its probabilities follow the stated rule."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cdner.config import BackboneChoice, Training
from cdner.errors import InputError, InputTooLongError, ModelError, UsageError
from cdner.models import open_backbone
from cdner.models.tagger import best_sequence, head_name, read_tags, types_of
from cdner.models.training import fit
from cdner.spans import bio_to_entities
from cdner.types import Entity, Segment, Sentence, Tagger, TaggingExample, TextGenerator

TYPES = ("person", "place", "club")


def _sentence(text: str, *entities: tuple[int, int, str]) -> Sentence:
    return Sentence(tuple(text.split()), tuple(Entity(*entity) for entity in entities))


SENTENCES = [
    _sentence(
        "Mira Olsen left Port Vanter for the Harbour Club .",
        (0, 2, "person"),
        (3, 5, "place"),
        (7, 9, "club"),
    ),
    _sentence("The Lantern Society met in Brackwater on Monday .", (1, 3, "club"), (5, 6, "place")),
    _sentence("Tomas Reyl never saw Port Vanter again .", (0, 2, "person"), (4, 6, "place")),
    _sentence("Nobody came ."),
    _sentence("Olsen !", (0, 1, "person")),
]
TEXT = (Segment(" a person leaves a place ;", 2), Segment(" a club is joined , not visited .", 1))
EXAMPLES = [TaggingExample(sentence, TEXT if n % 2 else ()) for n, sentence in enumerate(SENTENCES)]
PLAIN = Training(
    epochs=1, learning_rate=1e-3, batch_size=2, select="last", warmup_ratio=0.0, schedule="constant"
)
Open = Callable[..., Any]


@pytest.fixture(params=["bert", "mpnet"])
def opened(request: pytest.FixtureRequest) -> Open:
    folder = request.getfixturevalue(f"tiny_{request.param}")

    def open_it(checkpoint: Path | None = None, dtype: str = "float32") -> Any:
        choice = BackboneChoice(family="tagger", model=str(folder), dtype=dtype)  # type: ignore[arg-type]
        return open_backbone(choice, checkpoint=checkpoint)

    return open_it


def _ready(backbone: Any, **settings: Any) -> Any:
    backbone.prepare(TYPES, PLAIN.model_copy(update=settings))
    return backbone


def _encoded(backbone: Any) -> list[Any]:
    return [
        backbone.encode_example(example, max_input_tokens=256, max_target_tokens=1, index=0)
        for example in EXAMPLES
    ]


def _tagged(
    backbone: Any, sentences: list[Sentence], *, each: bool = True, batch_size: int = 16, text: Any = ()
) -> list[Any]:
    texts = [text] * len(sentences)
    found = dict(backbone.tag(sentences, texts, types=TYPES, each=each, batch_size=batch_size))
    return [found[index] for index in range(len(sentences))]


# --- inputs ----------------------------------------------------------------------------------------------


def test_each_word_is_read_at_its_first_sub_token(opened: Open) -> None:
    backbone = _ready(opened())
    sentence = _sentence("Vanter's [SEP] <s> \u200b Olsen", (4, 5, "person"))
    read = backbone.encode_example(
        TaggingExample(sentence), max_input_tokens=256, max_target_tokens=1, index=0
    )
    pieces = backbone.tokenizer.convert_ids_to_tokens(list(read.source))
    words = [pieces[a:b] for a, b in zip(read.positions, (*read.positions[1:], len(pieces) - 1), strict=True)]
    joined = ["".join(piece.removeprefix("##") for piece in word) for word in words]
    # The tiny alphabet knows no [SEP]'s digits, but every character it does know stands in its own word.
    assert joined[0] == "vanter's"
    assert joined[1] == "[sep]"
    assert (
        joined[2] == "[UNK]s[UNK]"
    )  # "<" and ">" are not in the vocabulary; the special token <s> was not made
    assert joined[3] == "[UNK]"  # spelled with nothing
    assert joined[4] == "olsen"
    assert [len(word) > 1 for word in words] == [True, True, True, False, True]
    assert read.target == (0, 0, 0, 0, 1)


def test_a_pair_looks_as_the_tokenizer_makes_it(opened: Open) -> None:
    backbone = _ready(opened())
    text = "".join(segment.text for segment in TEXT)
    for sentence in SENTENCES:
        alone = backbone.encode_example(
            TaggingExample(sentence), max_input_tokens=256, max_target_tokens=1, index=0
        )
        pair = backbone.encode_example(
            TaggingExample(sentence, TEXT), max_input_tokens=256, max_target_tokens=1, index=0
        )
        wanted = backbone.tokenizer(sentence.text)
        assert list(alone.source) == wanted["input_ids"]
        wanted = backbone.tokenizer(sentence.text, text, return_token_type_ids=True)
        assert list(pair.source) == wanted["input_ids"]
        if "token_type_ids" in backbone.tokenizer.model_input_names:
            assert list(pair.token_types) == wanted["token_type_ids"] and 1 in pair.token_types
        assert alone.positions == pair.positions and alone.n_truncated == pair.n_truncated == 0


def test_the_text_is_cut_first_by_priority_and_counted_and_the_sentence_never(opened: Open) -> None:
    backbone = _ready(opened())
    example = TaggingExample(SENTENCES[0], TEXT)

    def read(limit: int) -> Any:
        return backbone.encode_example(example, max_input_tokens=limit, max_target_tokens=1, index=0)

    whole, alone = (
        read(256),
        backbone.encode_example(
            TaggingExample(SENTENCES[0]), max_input_tokens=256, max_target_tokens=1, index=0
        ),
    )
    shorter = read(len(whole.source) - 3)
    assert (len(shorter.source), shorter.n_truncated) == (len(whole.source) - 3, 3)
    bidirectional = backbone.tokenizer(TEXT[1].text, add_special_tokens=False)["input_ids"]
    assert list(shorter.source)[-1 - len(bidirectional) : -1] == bidirectional  # initial reasoning went first
    n_text = len(backbone.tokenizer("".join(s.text for s in TEXT), add_special_tokens=False)["input_ids"])
    assert read(1).source == alone.source and read(1).n_truncated == n_text
    endless = Sentence(("Olsen",) * 400)
    with pytest.raises(InputTooLongError, match=r"Sentence 7 has \d+ tokens, the model takes 256") as raised:
        backbone.encode_example(TaggingExample(endless), max_input_tokens=9, max_target_tokens=1, index=7)
    assert raised.value.n_tokens > 400
    with pytest.raises(InputTooLongError):
        backbone.tag([SENTENCES[0], endless], [(), ()], types=TYPES, batch_size=2)


def test_the_window_is_filled_to_its_last_position(opened: Open) -> None:
    backbone = _ready(opened())
    assert backbone.window == 256
    n_pieces = len(backbone.tokenizer("Nobody", add_special_tokens=False)["input_ids"])
    n_words = (256 - 2) // n_pieces
    (tagging,) = _tagged(backbone, [Sentence(("Nobody",) * n_words)])
    assert tagging.n_input_tokens == n_words * n_pieces + 2


# --- probabilities ---------------------------------------------------------------------------------------


def _by_plain_loops(logits: Any, labels: list[str], entity: Entity) -> dict[str, float]:
    scores = {}
    for name in TYPES:
        total = 0.0
        for word in range(entity.start, entity.end):
            weights = [math.exp(value) for value in logits[word]]
            q = sum(
                w for w, label in zip(weights, labels, strict=True) if label in (f"B-{name}", f"I-{name}")
            )
            total += math.log(q / sum(weights))
        scores[name] = math.exp(total / (entity.end - entity.start))
    return {name: score / sum(scores.values()) for name, score in scores.items()}


def test_probabilities_over_types_equal_plain_loops_over_transformers_logits(
    opened: Open, tmp_path: Path
) -> None:
    fit(
        opened(),
        EXAMPLES,
        [],
        settings=PLAIN.model_copy(update={"epochs": 12, "head_rate": 10.0}),
        output=tmp_path / "m",
        types=TYPES,
    )
    backbone = opened(tmp_path / "m")
    labels = [backbone.model.config.id2label[n] for n in range(7)]
    n_entities = n_long = 0
    for sentence, tagging in zip(SENTENCES, _tagged(backbone, SENTENCES), strict=True):
        logits = backbone.model(**backbone.tokenizer(sentence.text, return_tensors="pt")).logits[0].tolist()
        read = backbone.encode_example(
            TaggingExample(sentence), max_input_tokens=256, max_target_tokens=1, index=0
        )
        of_words = [logits[place] for place in read.positions]
        best = [max(range(7), key=row.__getitem__) for row in of_words]
        covered = {p for e in tagging.entities for p in range(e.start, e.end)}
        assert covered == {word for word, tag in enumerate(best) if labels[tag] != "O"}
        assert len(tagging.type_probabilities) == len(tagging.entities)
        for entity, found in zip(tagging.entities, tagging.type_probabilities, strict=True):
            assert labels[best[entity.start]][2:] == entity.type
            assert list(found) == list(TYPES) and sum(found.values()) == pytest.approx(1)
            assert found == pytest.approx(_by_plain_loops(of_words, labels, entity), rel=1e-4)
            n_entities += 1
            n_long += entity.end - entity.start > 1
    assert n_entities > 3 and n_long > 0, "the trained model finds something"


def test_orphans_are_read_as_a_start_and_counted() -> None:
    labels = ["O", "B-a", "I-a", "B-b", "I-b"]
    wanted = ["I-a", "I-a", "O", "B-b", "I-a", "I-b"]
    scores = np.log(np.full((6, 5), 0.1))
    for word, tag in enumerate(wanted):
        scores[word, labels.index(tag)] = math.log(0.6)
    entities, probabilities, n_orphans = read_tags(scores, labels, ("b", "a"), each=True)
    assert entities == (Entity(0, 2, "a"), Entity(3, 4, "b"), Entity(4, 5, "a"), Entity(5, 6, "b"))
    assert n_orphans == 3
    assert probabilities[0] == pytest.approx({"b": 2 / 9, "a": 7 / 9})


def test_the_whole_sequence_keeps_a_span_whose_words_disagree_on_the_type() -> None:
    labels = ["O", "B-a", "I-a", "B-b", "I-b"]
    shares = [[0.1, 0.5, 0.0, 0.4, 0.0], [0.1, 0.0, 0.4, 0.0, 0.5], [0.9, 0.1, 0.0, 0.0, 0.0]]
    scores = np.log(np.array(shares) + 1e-9)
    alone, _, n_alone = read_tags(scores, labels, ("a", "b"), each=True)
    entities, probabilities, n_orphans = read_tags(scores, labels, ("a", "b"), each=False)
    assert alone == (Entity(0, 1, "a"), Entity(1, 2, "b"))
    assert entities == (Entity(0, 2, "a"),), "0.5 x 0.4 twice; the label that comes first wins"
    assert n_alone == n_orphans == 1
    assert probabilities[0] == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-6)


def test_the_best_sequence_is_the_best_of_all_that_are_bio() -> None:
    labels = ["I-b", "O", "B-a", "I-a", "B-b"]
    chance = np.random.default_rng(4)
    n_overruled = 0
    for n_words in (1, 2, 3, 4, 5):
        for _ in range(12):
            scores = np.log(chance.dirichlet([0.4] * 5, n_words) + 1e-9)
            found = best_sequence(scores, labels)
            allowed = [
                tags
                for tags in product(range(5), repeat=n_words)
                if bio_to_entities([labels[tag] for tag in tags])[1] == 0
            ]
            totals = [sum(scores[word, tag] for word, tag in enumerate(tags)) for tags in allowed]
            assert bio_to_entities([labels[tag] for tag in found])[1] == 0
            assert sum(scores[np.arange(n_words), found]) == pytest.approx(max(totals))
            n_overruled += bool((found != scores.argmax(-1)).any())
    assert 10 < n_overruled < 60


def test_batches_equal_one_by_one(opened: Open) -> None:
    backbone = _ready(opened(), seed=1)
    sentences = [sentence for sentence in SENTENCES for _ in range(2)]
    together = _tagged(backbone, sentences, each=False, batch_size=4, text=TEXT)
    for sentence, found in zip(sentences, together, strict=True):
        (alone,) = _tagged(backbone, [sentence], each=False, batch_size=1, text=TEXT)
        assert (alone.entities, alone.n_orphans, alone.n_input_tokens) == (
            found.entities,
            found.n_orphans,
            found.n_input_tokens,
        )
        for ours, theirs in zip(found.type_probabilities, alone.type_probabilities, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert any(found.entities for found in together)


# --- training --------------------------------------------------------------------------------------------


def test_the_loss_is_transformers_with_all_but_first_sub_tokens_masked(opened: Open) -> None:
    backbone = _ready(opened())
    examples = _encoded(backbone)
    total = n = 0.0
    for one in examples:
        labels = [-100] * len(one.source)
        for place, tag in zip(one.positions, one.target, strict=True):
            labels[place] = tag
        extra = (
            {"token_type_ids": torch.tensor([one.token_types])} if backbone._inputs.has_token_types else {}
        )
        loss = backbone.model(
            input_ids=torch.tensor([one.source]), labels=torch.tensor([labels]), **extra
        ).loss
        total, n = total + loss.item() * len(one.target), n + len(one.target)
    assert float(backbone.loss_sum(examples)) == pytest.approx(total, rel=1e-5)
    assert n == sum(len(sentence.tokens) for sentence in SENTENCES)


def test_microbatches_hold_every_example_in_order_and_stay_within_the_budget(opened: Open) -> None:
    backbone = _ready(opened())
    examples = _encoded(backbone) * 200
    groups = list(backbone.microbatches(examples))
    assert [one for group in groups for one in group] == examples and len(groups) > 1
    assert all(max(len(one.source) for one in group) * len(group) <= 4096 for group in groups)


def test_a_checkpoint_opens_with_transformers_alone_and_says_its_labels(opened: Open, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification, pipeline

    settings = PLAIN.model_copy(update={"epochs": 30, "head_rate": 10.0})
    examples = [TaggingExample(sentence) for sentence in SENTENCES]
    result = fit(opened(), examples, [], settings=settings, output=tmp_path / "m", types=TYPES)
    model = AutoModelForTokenClassification.from_pretrained(result.checkpoint)
    assert model.config.id2label == {
        0: "O",
        1: "B-person",
        2: "I-person",
        3: "B-place",
        4: "I-place",
        5: "B-club",
        6: "I-club",
    }
    assert model.config.label2id["I-club"] == 6
    backbone = opened(result.checkpoint)
    assert backbone.types == TYPES
    assert [tagging.entities for tagging in _tagged(backbone, SENTENCES)] == [s.entities for s in SENTENCES]
    found = pipeline("token-classification", str(result.checkpoint), aggregation_strategy="first")(
        SENTENCES[0].text
    )
    assert [(item["entity_group"], item["word"]) for item in found] == [
        ("person", "mira olsen"),
        ("place", "port vanter"),
        ("club", "harbour club"),
    ]


def test_another_domain_gets_a_new_head_that_the_seed_decides(
    opened: Open, tmp_path: Path, capfd: Any
) -> None:
    source = [
        TaggingExample(Sentence(s.tokens, tuple(Entity(e.start, e.end, "name") for e in s.entities)))
        for s in SENTENCES
    ]
    fit(opened(), source, [], settings=PLAIN, output=tmp_path / "source", types=("name",))

    def heads(seed: int) -> tuple[Any, Any]:
        torch.rand(3)  # the caller's random numbers do not matter
        backbone = opened(tmp_path / "source")
        assert backbone.types == ("name",)
        encoder = backbone.model.base_model.state_dict()
        _ready(backbone, seed=seed)
        for name, weight in load_file(tmp_path / "source" / "model.safetensors").items():
            inside = name.removeprefix(f"{backbone.model.base_model_prefix}.")
            assert inside == name or torch.equal(encoder[inside], weight)
        return backbone.model.get_submodule(backbone.head).weight.clone(), backbone

    (first, backbone), (again, _), (other, _) = heads(5), heads(5), heads(6)
    assert first.shape == (7, 48) and torch.equal(first, again) and not torch.equal(first, other)
    assert backbone.types == TYPES and backbone.model.num_labels == 7
    kept = backbone.model.get_submodule(backbone.head)
    _ready(backbone)
    assert backbone.model.get_submodule(backbone.head) is kept, "the same types keep their head"
    results = [
        fit(opened(tmp_path / "source"), EXAMPLES, [], settings=PLAIN, output=tmp_path / name, types=TYPES)
        for name in ("one", "two")
    ]
    assert results[0].weights_sha256 == results[1].weights_sha256
    told = capfd.readouterr()
    assert told.err == told.out == ""


def test_the_head_learns_faster_and_frozen_embeddings_stay(opened: Open, tmp_path: Path) -> None:
    def moved(name: str, **settings: Any) -> tuple[float, float, float]:
        """By the first step, where Adam moves each weight by its rate."""
        given = PLAIN.model_copy(update={"batch_size": 5, "weight_decay": 0.0, "dropout": False, **settings})
        before = _ready(opened())
        at_first = {key: value.clone() for key, value in before.model.state_dict().items()}
        fit(opened(), EXAMPLES, [], settings=given, output=tmp_path / name, types=TYPES)
        trained = load_file(tmp_path / name / "model.safetensors")
        change = {key: float((trained[key] - at_first[key]).abs().max()) for key in trained}
        head = change[f"{before.head}.weight"]
        embeddings = next(value for key, value in change.items() if key.endswith("word_embeddings.weight"))
        inside = next(value for key, value in change.items() if key.endswith("1.output.dense.weight"))
        return head, inside, embeddings

    assert moved("plain") == pytest.approx((1e-3, 1e-3, 1e-3), rel=0.02)
    assert moved("faster", head_rate=20.0) == pytest.approx((2e-2, 1e-3, 1e-3), rel=0.02)
    assert moved("frozen", freeze_embeddings=True) == pytest.approx((1e-3, 1e-3, 0.0), rel=0.02)


def test_dropout_can_be_left_out(opened: Open, tmp_path: Path) -> None:
    def losses(name: str, *, dropout: bool) -> list[float]:
        settings = PLAIN.model_copy(update={"epochs": 1, "batch_size": 5, "dropout": dropout})
        result = fit(opened(), EXAMPLES, EXAMPLES, settings=settings, output=tmp_path / name, types=TYPES)
        return [log.train_loss for log in result.epochs]

    backbone = _ready(opened())
    with torch.inference_mode():
        plain = float(backbone.loss_sum(_encoded(backbone))) / sum(len(s.tokens) for s in SENTENCES)
    assert losses("without", dropout=False) == pytest.approx([plain], rel=1e-5)
    assert losses("with", dropout=True) != pytest.approx([plain], rel=1e-3)


def test_adapters_train_the_head_as_a_whole(opened: Open, tmp_path: Path) -> None:
    settings = PLAIN.model_copy(update={"epochs": 2, "lora_rank": 4, "head_rate": 5.0})
    fit(opened(), EXAMPLES, EXAMPLES, settings=settings, output=tmp_path / "m", types=TYPES)
    backbone, before = opened(tmp_path / "m"), _ready(opened())
    trained = backbone.model.get_submodule(backbone.head).weight
    assert backbone.head == head_name(before.model)
    assert not torch.equal(trained, before.model.get_submodule(before.head).weight)
    assert set(backbone.model.state_dict()) == set(before.model.state_dict())


RESUMED = """
import json, os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from cdner.models import open_backbone
from cdner.models.training import fit
from cdner.config import BackboneChoice, Training
from test_models_tagger import EXAMPLES, TYPES
kill_after, n = int(sys.argv[2]), 0
class Progress:
    def start(self, label, total=None): pass
    def advance(self, n_done=1, note=""):
        global n
        n += 1
        if n == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
backbone = open_backbone(BackboneChoice(family="tagger", model={model!r}, dtype="float32"))
settings = Training(epochs=4, learning_rate=1e-3, batch_size=2, head_rate=3.0, freeze_embeddings=True)
result = fit(backbone, EXAMPLES, EXAMPLES[:2], settings=settings, output=Path(sys.argv[1]), types=TYPES,
    progress=Progress())
print(json.dumps([result.weights_sha256, result.best_epoch, n, [log.train_loss for log in result.epochs]]))
"""


@pytest.mark.slow
def test_a_training_killed_in_its_third_epoch_resumes_to_the_same_bits(
    tmp_path: Path, tiny_mpnet: Path
) -> None:
    tests = Path(__file__).parent
    code = RESUMED.format(root=str(tests.parent), tests=str(tests), model=str(tiny_mpnet))

    def run(output: str, kill_after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / output), str(kill_after)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    whole = json.loads(run("whole", 0).stdout)
    assert run("resumed", 8).returncode == -signal.SIGKILL  # three steps an epoch: in the middle of the third
    resumed = json.loads(run("resumed", 0).stdout)
    assert (resumed[0], resumed[1], resumed[3]) == (whole[0], whole[1], whole[3])
    assert (whole[2], resumed[2]) == (12, 6)


# --- what is refused -------------------------------------------------------------------------------------


def test_models_are_what_they_can_do(opened: Open, tiny_t5: Path) -> None:
    writer = open_backbone(BackboneChoice(family="seq2seq", model=str(tiny_t5), dtype="float32"))
    assert isinstance(opened(), Tagger) and not isinstance(writer, Tagger)
    assert hasattr(writer, "generate") and not hasattr(opened(), "generate"), TextGenerator


def test_a_bare_encoder_tags_nothing_and_other_types_are_refused(opened: Open) -> None:
    backbone = opened()
    assert backbone.types == ()
    with pytest.raises(ModelError, match=r"trained for no types, not for person, place, club"):
        backbone.tag(SENTENCES, [()] * 5, types=TYPES, batch_size=2)
    _ready(backbone)
    with pytest.raises(ModelError, match=r"trained for the types person, place, club, not for ship"):
        backbone.tag(SENTENCES, [()] * 5, types=("ship",), batch_size=2)
    strange = TaggingExample(_sentence("Olsen", (0, 1, "ship")))
    with pytest.raises(InputError, match="Entity type 'ship' is not one of: person, place, club"):
        backbone.encode_example(strange, max_input_tokens=9, max_target_tokens=1, index=0)


def test_an_encoder_with_missing_weights_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    save_file(
        {k: v for k, v in weights.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=f"1 of its weights are missing, first 'bert.{lost}'"):
        open_backbone(BackboneChoice(family="tagger", model=str(tmp_path)))


def test_labels_that_are_no_bio_tags_are_no_types(opened: Open) -> None:
    config = opened().model.config
    for labels in (["LABEL_0", "LABEL_1"], ["O", "B-a"], ["O", "a"], ["B-a", "I-a"]):
        config.id2label = dict(enumerate(labels))
        assert types_of(config) == ()
    config.id2label = dict(enumerate(["B-b", "I-b", "O", "B-a", "I-a"]))  # of somebody else's model
    assert types_of(config) == ("b", "a")


@pytest.mark.parametrize("setting", [{"head_rate": 2.0}, {"freeze_embeddings": True}, {"dropout": False}])
@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_models_that_write_refuse_settings_of_taggers(
    setting: dict[str, Any], family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue("tiny_llama" if family == "causal" else "tiny_t5")
    backbone: Any = open_backbone(BackboneChoice(family=family, model=str(folder), dtype="float32"))
    with pytest.raises(UsageError, match=f"The setting {next(iter(setting))} of training is for taggers"):
        fit(backbone, [], [], settings=Training(epochs=0, **setting), output=tmp_path / "m")


# --- embedding -------------------------------------------------------------------------------------------


def test_a_text_is_the_mean_of_its_own_tokens(opened: Open) -> None:
    backbone = opened()
    texts = [sentence.text for sentence in SENTENCES]
    found = backbone.embed(texts)
    assert found.shape == (5, 48) and found.dtype == np.float64
    for text, vector in zip(texts, found, strict=True):
        encoded = backbone.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = backbone.model.base_model(**encoded).last_hidden_state[0]
        np.testing.assert_allclose(vector, states[1:-1].double().mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert backbone.embed([]).shape == (0, 48)
    assert not backbone.embed([""]).any()
    endless = backbone.embed(["Olsen " * 400])
    assert np.isfinite(endless).all() and endless.any()


@pytest.mark.parametrize("family", ["tagger", "causal", "seq2seq"])
def test_spans_and_sentences_are_means_of_their_tokens(family: str, request: pytest.FixtureRequest) -> None:
    name = {"tagger": "tiny_mpnet", "causal": "tiny_llama", "seq2seq": "tiny_t5"}[family]
    folder = request.getfixturevalue(name)
    backbone: Any = open_backbone(BackboneChoice(family=family, model=str(folder), dtype="float32"))
    spans = [[(e.start, e.end) for e in sentence.entities] for sentence in SENTENCES]
    of_spans, of_sentences = backbone.embed_spans(SENTENCES, spans)
    assert (len(of_spans), len(of_sentences)) == (8, 5)
    np.testing.assert_allclose(
        of_sentences, backbone.embed([s.text for s in SENTENCES]), rtol=1e-4, atol=1e-5
    )
    whole, _ = backbone.embed_spans(SENTENCES[:1], [[(0, 10)]])
    np.testing.assert_allclose(whole[0], of_sentences[0], rtol=1e-4, atol=1e-5)
    words, _ = backbone.embed_spans(SENTENCES[:1], [[(word, word + 1) for word in range(10)]])
    sizes = [len(_own_tokens(backbone, SENTENCES[0], word)) for word in range(10)]
    for (start, end), vector in zip(spans[0], of_spans[:3], strict=True):
        twin = sum(words[w] * sizes[w] for w in range(start, end)) / sum(sizes[start:end])
        np.testing.assert_allclose(vector, twin, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        sum(w * n for w, n in zip(words, sizes, strict=True)) / sum(sizes),
        of_sentences[0],
        rtol=1e-4,
        atol=1e-5,
    )


def _own_tokens(backbone: Any, sentence: Sentence, word: int) -> list[int]:
    tokens = backbone._words.encode(sentence.tokens)
    return list(tokens.ids[tokens.places(word, word + 1)])
