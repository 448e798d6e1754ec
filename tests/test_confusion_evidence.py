"""What MCQM may see, and that stored tables alone give what the evidence gave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from random_corpora import domain, paired_corpora

from cdner import config
from cdner.confusion.mcqm import quantify, recompute, rivals, transfer_evidence
from cdner.errors import InputError
from cdner.types import Corpus, Entity, Prediction, Sentence, TransferEvidence

SOURCE = domain("coarse", ("person", "place", "misc"), "source", ("PER", "LOC", "MISC"))
TARGET = domain("random", ("poet", "city", "river"))
PAPER = config.Confusion()
ADAPTIVE = config.Confusion(rivals="adaptive")
SENTENCE = Sentence(("a", "b"), (Entity(0, 1, "poet"),))
SEEN = (Prediction("", (Entity(0, 1, "person"),)),)
TAKEN = (Prediction("", (Entity(0, 1, "city"),)),)
COMPLETE = {
    "source": SOURCE,
    "target": TARGET,
    "train": Corpus("random", "train", (SENTENCE,)),
    "train_predictions": SEEN,
    "dev": Corpus("random", "dev", (SENTENCE,)),
    "dev_predictions": TAKEN,
    "description_embeddings": np.eye(3),
}


@pytest.mark.parametrize("part", ["train", "dev"])
def test_a_test_split_never_becomes_evidence(part: str) -> None:
    with pytest.raises(InputError, match="never on test"):
        transfer_evidence(**COMPLETE | {part: replace(COMPLETE[part], split="test")})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": Corpus("random", "dev", (SENTENCE,))}, "is a dev split where train is needed"),
        ({"dev": Corpus("random", "train", (SENTENCE,))}, "is a train split where dev is needed"),
        ({"train_predictions": ()}, "1 sentences, 0 predictions"),
        ({"dev_predictions": TAKEN * 2}, "1 sentences, 2 predictions"),
        ({"dev": Corpus("elsewhere", "dev", (SENTENCE,))}, "not of the target domain 'random'"),
        (
            {"train_predictions": (Prediction("", (Entity(1, 3, "person"),)),)},
            "sentence 1: a predicted span leaves",
        ),
        ({"description_embeddings": np.eye(2)}, r"expected \(3, d\)"),
        ({"source": replace(SOURCE, role="target")}, "cannot be the source"),
        ({"target": replace(TARGET, role="source")}, "cannot be the target"),
        ({"source": replace(SOURCE, entries=())}, "0 types"),
    ],
)
def test_evidence_that_does_not_fit_together_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        transfer_evidence(**COMPLETE | wrong)


def test_quantify_by_hand() -> None:
    found = quantify(transfer_evidence(**COMPLETE), PAPER)
    assert [prefix.short for prefix in found.prefixes] == ["PER", "MISC", "MISC"]
    assert [prefix.unrecognised for prefix in found.prefixes] == [False, True, True]
    assert found.scores.r_m.scores[0].tolist() == [0, 1, 0]
    assert found.scores.most_confused == ("city", "poet", "poet")
    assert [row[0][0] for row in found.rivals] == ["city", "poet", "poet"]
    assert [matrix.dimension for matrix in found.scores.matrices()] == [
        "u_hie",
        "u_sim",
        "u_iml",
        "v_iml",
        "R_M",
        "v_exl",
        "v_conf",
    ]


@given(
    paired_corpora(TARGET.types, SOURCE.types, "train"),
    paired_corpora(TARGET.types, TARGET.types, "dev"),
    arrays(np.float64, (3, 2), elements=st.floats(-1, 1)),
)
def test_stored_tables_alone_give_the_same_result(train, dev, embeddings) -> None:
    evidence: TransferEvidence = transfer_evidence(
        source=SOURCE,
        target=TARGET,
        train=train[0],
        train_predictions=train[1],
        dev=dev[0],
        dev_predictions=dev[1],
        description_embeddings=embeddings,
    )
    first = quantify(evidence, ADAPTIVE)
    prefix_of, again = recompute(
        target=TARGET,
        source=SOURCE,
        r_h=first.hierarchy.ratio,
        embeddings=embeddings,
        r_m=first.misclassification.ratio,
        settings=ADAPTIVE,
    )
    assert prefix_of == first.prefixes
    assert again.most_confused == first.scores.most_confused
    for one, other in zip(first.scores.matrices(), again.matrices(), strict=True):
        assert np.array_equal(one.scores, other.scores)
    assert rivals(again.v_conf, ADAPTIVE) == first.rivals


@pytest.mark.parametrize(("r_h", "r_m", "name"), [((3, 2), (3, 3), "R_H"), ((3, 3), (2, 2), "R_M")])
def test_recompute_refuses_tables_of_another_shape(r_h, r_m, name: str) -> None:
    with pytest.raises(InputError, match=name):
        recompute(
            target=TARGET,
            source=SOURCE,
            r_h=np.zeros(r_h),
            embeddings=np.eye(3),
            r_m=np.zeros(r_m),
            settings=PAPER,
        )
