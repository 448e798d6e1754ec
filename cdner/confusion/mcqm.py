"""MCQM: brings the three dimensions together (3.2.3 to 3.2.5, eq. 9-14) and guards what they may see.

Recomputes from stored ratios and embeddings in milliseconds. Knows no model and no store.
A test split never enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdner import config
from cdner.confusion.empirical import MisclassificationRatio, misclassification_ratio
from cdner.confusion.hierarchy import HierarchyRatio, Prefix, hierarchy_ratio, prefixes, u_hie
from cdner.confusion.pairing import check_paired
from cdner.confusion.similarity import u_sim
from cdner.errors import InputError, UsageError
from cdner.types import ConfusionMatrix, Corpus, Domain, FloatArray, Prediction, Split, TransferEvidence

TIE_DECIMALS = 12  # scores this close are a tie: their last digits depend on the processor

Rivals = tuple[tuple[str, float], ...]  # (type it is taken for, v_conf), largest first


@dataclass(frozen=True, slots=True)
class ConfusionScores:
    """Every quantity from the three dimensions to v_conf, each (K, K) with diagonal 0."""

    u_hie: ConfusionMatrix
    u_sim: ConfusionMatrix
    u_iml: ConfusionMatrix  # eq. 9
    v_iml: ConfusionMatrix  # eq. 10, rows sum to 1
    r_m: ConfusionMatrix
    v_exl: ConfusionMatrix  # eq. 12, rows sum to 1
    v_conf: ConfusionMatrix  # eq. 13, rows sum to 2
    most_confused: tuple[str | None, ...]  # T_conf of eq. 14; None only in a domain of one type

    def matrices(self) -> tuple[ConfusionMatrix, ...]:
        """All seven, in the order of the equations."""
        return (self.u_hie, self.u_sim, self.u_iml, self.v_iml, self.r_m, self.v_exl, self.v_conf)


@dataclass(frozen=True, slots=True)
class Quantification:
    """All that MCQM finds, from counts to rivals."""

    hierarchy: HierarchyRatio
    prefixes: tuple[Prefix, ...]
    misclassification: MisclassificationRatio
    scores: ConfusionScores
    rivals: tuple[Rivals, ...]  # one per target type


def transfer_evidence(
    *,
    source: Domain,
    target: Domain,
    train: Corpus,
    train_predictions: Sequence[Prediction],
    dev: Corpus,
    dev_predictions: Sequence[Prediction],
    description_embeddings: FloatArray,
) -> TransferEvidence:
    """The only way to build what MCQM sees.

    InputError when train is not a train split or dev not a dev split (so never test), when a corpus is of
    another domain, when predictions do not belong to its sentences, when a domain has the wrong role or no
    type, or when there is not one embedding per target type.
    """
    _check_corpus(train, train_predictions, target=target, split="train")
    _check_corpus(dev, dev_predictions, target=target, split="dev")
    for domain, role in ((source, "source"), (target, "target")):
        if domain.role != role or not domain.entries:
            raise InputError(
                f"Domain '{domain.name}' cannot be the {role}: it is a {domain.role} domain of "
                f"{len(domain.entries)} types. Check its file in prompts/types."
            )
    u_sim(description_embeddings, types=target.types)  # refuses a wrong shape or values that are not finite
    return TransferEvidence(
        source=source,
        target=target,
        train=train,
        train_predictions=tuple(train_predictions),
        dev=dev,
        dev_predictions=tuple(dev_predictions),
        description_embeddings=description_embeddings,
    )


def quantify(evidence: TransferEvidence, settings: config.Confusion) -> Quantification:
    """Eq. 2-14 from predictions and embeddings."""
    hierarchy = hierarchy_ratio(evidence.train, evidence.train_predictions, evidence.target, evidence.source)
    misclassification = misclassification_ratio(evidence.dev, evidence.dev_predictions, evidence.target)
    prefix_of, scores = recompute(
        target=evidence.target,
        source=evidence.source,
        r_h=hierarchy.ratio,
        embeddings=evidence.description_embeddings,
        r_m=misclassification.ratio,
        settings=settings,
    )
    return Quantification(hierarchy, prefix_of, misclassification, scores, rivals(scores.v_conf, settings))


def recompute(
    *,
    target: Domain,
    source: Domain,
    r_h: FloatArray,
    embeddings: FloatArray,
    r_m: FloatArray,
    settings: config.Confusion,
) -> tuple[tuple[Prefix, ...], ConfusionScores]:
    """Eq. 3-14 from what is stored: R_H (K, n), H-bar (K, d), R_M (K, K). No corpus, no model."""
    k, n = len(target.entries), len(source.entries)
    for name, array, shape in (("R_H", r_h, (k, n)), ("R_M", r_m, (k, k))):
        if array.shape != shape:
            raise InputError(
                f"{name} has shape {array.shape}, expected {shape} for '{source.name}' to '{target.name}'."
            )
    prefix_of = prefixes(r_h, source)
    scores = fuse(
        u_hie(r_h, prefix_of, types=target.types, delta=settings.delta),
        u_sim(embeddings, types=target.types),
        ConfusionMatrix("R_M", target.types, r_m),
        settings,
    )
    return prefix_of, scores


def fuse(
    hierarchical: ConfusionMatrix,
    semantic: ConfusionMatrix,
    observed: ConfusionMatrix,
    settings: config.Confusion,
) -> ConfusionScores:
    """Eq. 9-14 from u_hie, u_sim and R_M, each (K, K) over the same types; diagonals are ignored.

    K = 2: the only other type gets all the mass, whatever the scores. K = 1: zeros and no rival.
    """
    types = hierarchical.types
    if not types == semantic.types == observed.types:
        raise InputError("u_hie, u_sim and R_M are over different types: measure them for one target domain.")
    with np.errstate(over="ignore"):  # told below, in words
        mixed = settings.alpha * hierarchical.scores + settings.beta * semantic.scores
    if not np.isfinite(mixed).all():
        raise UsageError(f"alpha = {settings.alpha}, beta = {settings.beta} overflow: use smaller weights.")
    np.fill_diagonal(mixed, 0.0)
    v_iml = _softmax_over_others(mixed, w0=settings.w0)
    v_exl = _softmax_over_others(observed.scores, w0=settings.w0)
    v_conf = ConfusionMatrix("v_conf", types, v_iml + v_exl)
    return ConfusionScores(
        u_hie=hierarchical,
        u_sim=semantic,
        u_iml=ConfusionMatrix("u_iml", types, mixed),
        v_iml=ConfusionMatrix("v_iml", types, v_iml),
        r_m=observed,
        v_exl=ConfusionMatrix("v_exl", types, v_exl),
        v_conf=v_conf,
        most_confused=tuple(row[0][0] if row else None for row in _ranked(v_conf)),
    )


def rivals(v_conf: ConfusionMatrix, settings: config.Confusion) -> tuple[Rivals, ...]:
    """Per type, whom to reason against: (type, v_conf), largest first, ties by type order.

    "top1" is eq. 14. "adaptive" (ours) keeps every j above (1 + margin) times the row's uniform level
    2 / (K - 1). A flat row keeps none; nor does a domain of two types, where v_conf cannot tell anything.
    """
    ranked = _ranked(v_conf)
    if settings.rivals == "top1":
        return tuple(row[:1] for row in ranked)
    levels = v_conf.scores.sum(axis=1) / max(len(v_conf.types) - 1, 1)
    slack = 10.0**-TIE_DECIMALS
    return tuple(
        tuple((name, score) for name, score in row if score > (1 + settings.margin) * level + slack)
        for row, level in zip(ranked, levels, strict=True)
    )


def _softmax_over_others(scores: FloatArray, *, w0: float) -> FloatArray:
    """Eq. 10 and 12: exp(w0 * u_ij) over its row's sum without j = i. Rows sum to 1; K = 1 gives [[0]]."""
    k = len(scores)
    others = ~np.eye(k, dtype=bool)
    # The row's maximum is taken off before w0 multiplies: no exponent is above 0, whatever w0.
    highest = np.where(others, scores, -np.inf).max(axis=1, keepdims=True) if k > 1 else np.zeros((k, 1))
    weights = np.where(others, np.exp(w0 * np.where(others, scores - highest, 0.0)), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    softmax: FloatArray = weights / np.where(total > 0, total, 1.0)
    return softmax


def _ranked(v_conf: ConfusionMatrix) -> list[Rivals]:
    """Per type all others, largest score first; scores equal to TIE_DECIMALS stand in type order."""
    rounded = np.round(v_conf.scores, TIE_DECIMALS)
    return [
        tuple(
            (v_conf.types[j], float(v_conf.scores[i, j])) for j in np.argsort(-row, kind="stable") if j != i
        )
        for i, row in enumerate(rounded)
    ]


def _check_corpus(corpus: Corpus, predictions: Sequence[Prediction], *, target: Domain, split: Split) -> None:
    if corpus.split != split:
        raise InputError(
            f"Corpus '{corpus.domain}' is a {corpus.split} split where {split} is needed: "
            "confusion is measured on train and dev only, never on test."
        )
    if corpus.domain != target.name:
        raise InputError(f"Corpus '{corpus.domain}' ({split}) is not of the target domain '{target.name}'.")
    check_paired(corpus, predictions)
