"""Entities to backbone text and back: the paper's JSON, its wire forms, tolerant decoding, alignment,
grounded decoding.

Knows sentences, types and a ``Vocabulary``; knows nothing of models, training, files or scores.
"""

from __future__ import annotations

from cdner.codec.confidence import TypeScores
from cdner.codec.decode import decode
from cdner.codec.grammar import Grammar
from cdner.codec.wire import PLAIN_WIRE, Wire, WireForm, encode_entities, wire_for

__all__ = ["PLAIN_WIRE", "Grammar", "TypeScores", "Wire", "WireForm", "decode", "encode_entities", "wire_for"]
