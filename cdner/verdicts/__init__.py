"""Verdicts: an LLM judges the type of a mention by its probabilities over the domain's types; no text is generated.

Ours, not the paper's. A small LLM writes wrong types as fluently as right ones, but its probabilities over types are
informative where the backbone's are not. Pure: takes and returns values, knows neither store nor models.
"""

from cdner.verdicts.candidates import candidates_by_prediction
from cdner.verdicts.fusion import Fusion, decide, fit_fusion
from cdner.verdicts.neighbours import LabelledMention, Mentions, nearest, nearest_sentences
from cdner.verdicts.questions import Question, choices_of, fixed_part, question_maker, question_request
from cdner.verdicts.telling import told_verdicts

__all__ = [
    "Fusion",
    "LabelledMention",
    "Mentions",
    "Question",
    "candidates_by_prediction",
    "choices_of",
    "decide",
    "fit_fusion",
    "fixed_part",
    "nearest",
    "nearest_sentences",
    "question_maker",
    "question_request",
    "told_verdicts",
]
