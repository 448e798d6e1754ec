"""Predictions in the store, saved in chunks as they are made: a killed run goes on where it stopped."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cdner.errors import StoreError
from cdner.files import canonical_json
from cdner.store.connection import Store, rows_of_run
from cdner.store.rows import Row, insert_rows
from cdner.types import Entity, Generation, Prediction, Sentence

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_COLUMNS = (
    "run_id position generated malformed n_input_tokens n_truncated_tokens n_output_tokens finish_reason"
)
_ENTITY_COLUMNS = (
    "run_id position start_token end_token entity_type mention probability runner_up runner_up_probability"
)
_PROBABILITY_COLUMNS = "run_id position start_token end_token entity_type probability"
Span = tuple[int, int]  # first token, token after the last
Predicted = tuple[int, Prediction, Generation]  # position in the corpus, what it says, how it was generated


def save_predictions(
    store: Store,
    run_id: str,
    items: Sequence[Predicted],
    *,
    corpus_run_id: str,
    sentences: Mapping[int, Sentence] | None = None,
) -> None:
    """Store a chunk of predictions for sentences of a stored corpus; a position again replaces what it had.

    ``sentences``: those at the items' positions, where the caller has them; looking up a few takes a pass over all
    sentences of the store. StoreError when a position or an entity lies outside the corpus.
    """
    with store.transaction() as connection:
        _remember_corpus(connection, store, run_id, corpus_run_id)
        positions = [position for position, _, _ in items]
        tokens: Mapping[int, Sequence[str]]
        if sentences is None:
            tokens = _tokens(connection, corpus_run_id, positions)
        else:
            tokens = {position: sentences[position].tokens for position in positions}
        entities = [
            (
                *(run_id, position, entity.start, entity.end, entity.type),
                _mention(tokens, position, entity),
                *_how_sure(entity.type, probabilities),
            )
            for position, prediction, _ in items
            for entity, probabilities in _with_probabilities(prediction)
        ]
        distributions = [
            (run_id, position, entity.start, entity.end, entity_type, probability)
            for position, prediction, _ in items
            for entity, probabilities in _with_probabilities(prediction)
            for entity_type, probability in probabilities.items()
        ]
        for table in ("prediction", "predicted_entity", "type_probability"):
            connection.execute(
                f"DELETE FROM {table} WHERE run_id = ? AND position IN (SELECT unnest(?))",  # noqa: S608 our own names
                [run_id, list(tokens)],
            )
        insert_rows(connection, "prediction", _COLUMNS.split(), [_row(run_id, item) for item in items])
        insert_rows(connection, "predicted_entity", _ENTITY_COLUMNS.split(), entities)
        insert_rows(connection, "type_probability", _PROBABILITY_COLUMNS.split(), distributions)


def predicted_positions(store: Store, run_id: str, among: Sequence[int] | None = None) -> set[int]:
    """Positions (of ``among``, None: all) that need no prediction any more; empty without a store."""
    if not store.path.exists():
        return set()
    rows = rows_of_run(store, "prediction", ("position",), run_id, order="position", positions=among)
    return {position for (position,) in rows}


def count_predictions(store: Store, run_id: str) -> int:
    """Sentences the run has predicted."""
    ((n,),) = rows_of_run(store, "prediction", ("count(*)",), run_id, order="ALL")
    return int(n)


def malformed_counts(store: Store, run_id: str) -> dict[str, int]:
    """Kind of malformed output -> how often, over all sentences of a run."""
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT key, sum(value::BIGINT)::BIGINT FROM prediction, json_each(malformed) WHERE run_id = ? "
            "GROUP BY key ORDER BY key",
            [run_id],
        ).fetchall()
    return dict(rows)


def load_predictions(
    store: Store, run_id: str, positions: Sequence[int] | None = None
) -> dict[int, Prediction]:
    """Position -> prediction, ascending; empty when the run has none (at these positions, None: anywhere)."""
    columns: tuple[str, ...] = ("position", "generated", "malformed")
    rows = rows_of_run(store, "prediction", columns, run_id, order="position", positions=positions)
    columns = ("position", "start_token", "end_token", "entity_type")
    entities = rows_of_run(store, "predicted_entity", columns, run_id, order="ALL", positions=positions)
    by_position = defaultdict(list)
    for position, start, end, entity_type in entities:
        by_position[position].append(Entity(start, end, entity_type))
    return {
        position: Prediction(generated, tuple(by_position[position]), json.loads(malformed))
        for position, generated, malformed in rows
    }


def load_type_probabilities(
    store: Store, run_id: str, positions: Sequence[int] | None = None
) -> dict[int, dict[Span, dict[str, float]]]:
    """Position -> span -> type -> probability, of the predicted entities whose model says how sure it is."""
    columns = ("position", "start_token", "end_token", "entity_type", "probability")
    rows = rows_of_run(store, "type_probability", columns, run_id, order="ALL", positions=positions)
    found: dict[int, dict[Span, dict[str, float]]] = {}
    for position, start, end, entity_type, probability in rows:
        found.setdefault(position, {}).setdefault((start, end), {})[entity_type] = probability
    return found


def count_confused(store: Store, run_id: str) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Gold entities per type in the sentences the run has predicted, and (gold type, wrong type) on exact spans."""
    gold = (
        "FROM gold_entity AS gold"
        " JOIN prediction_corpus AS of_run ON of_run.corpus_run_id = gold.run_id AND of_run.run_id = $run_id"
    )
    n_gold = f"SELECT gold.entity_type, count(*) {gold} SEMI JOIN prediction"
    confused = (
        f"SELECT gold.entity_type, predicted.entity_type, count(*) {gold}"
        " JOIN predicted_entity AS predicted ON predicted.run_id = $run_id AND predicted.position = gold.position"
        " AND predicted.start_token = gold.start_token AND predicted.end_token = gold.end_token"
        " WHERE predicted.entity_type <> gold.entity_type GROUP BY ALL"
    )
    n_gold += " ON prediction.run_id = $run_id AND prediction.position = gold.position GROUP BY ALL"
    with store.reading() as connection:
        types = connection.execute(n_gold, {"run_id": run_id}).fetchall()
        pairs = connection.execute(confused, {"run_id": run_id}).fetchall()
    return Counter(dict(types)), Counter({(gold_type, wrong): n for gold_type, wrong, n in pairs})


def predicted_corpus(store: Store, run_id: str) -> str:
    """The import run of the corpus a prediction run has predicted. StoreError when it has predicted none."""
    with store.reading() as connection:
        row = connection.execute(
            "SELECT corpus_run_id FROM prediction_corpus WHERE run_id = ?", [run_id]
        ).fetchone()
    if row is None:
        raise StoreError(f"Run {run_id} has no predictions in {store.path}.")
    return str(row[0])


def _remember_corpus(connection: DuckDBPyConnection, store: Store, run_id: str, corpus_run_id: str) -> None:
    known = connection.execute(
        "SELECT corpus_run_id FROM prediction_corpus WHERE run_id = ?", [run_id]
    ).fetchone()
    if known is None:
        columns = ("run_id", "corpus_run_id")
        insert_rows(connection, "prediction_corpus", columns, [(run_id, corpus_run_id)])
    elif known[0] != corpus_run_id:
        raise StoreError(f"Run {run_id} in {store.path} predicts corpus {known[0]}, not {corpus_run_id}.")


def _tokens(
    connection: DuckDBPyConnection, corpus_run_id: str, positions: Sequence[int]
) -> dict[int, list[str]]:
    rows = connection.execute(
        "SELECT position, tokens FROM corpus_sentence JOIN sentence USING (sentence_id)"
        " WHERE run_id = ? AND position IN (SELECT unnest(?))",
        [corpus_run_id, list(positions)],
    ).fetchall()
    found = dict(rows)
    for position in positions:
        if position not in found:
            raise StoreError(f"Corpus run {corpus_run_id} has no sentence at position {position}.")
    return found


def _with_probabilities(prediction: Prediction) -> Iterator[tuple[Entity, Mapping[str, float]]]:
    """Each entity with its distribution over types; an empty one where the model does not say."""
    if not prediction.type_probabilities:
        return ((entity, {}) for entity in prediction.entities)
    return zip(prediction.entities, prediction.type_probabilities, strict=True)


def _how_sure(
    predicted: str, probabilities: Mapping[str, float]
) -> tuple[float | None, str | None, float | None]:
    """Probability of the predicted type, the most probable other type and its probability."""
    if predicted not in probabilities:
        return None, None, None
    others = [(probability, name) for name, probability in probabilities.items() if name != predicted]
    second, runner_up = max(others, default=(None, None))
    return probabilities[predicted], runner_up, second


def _mention(tokens: Mapping[int, Sequence[str]], position: int, entity: Entity) -> str:
    if not 0 <= entity.start < entity.end <= len(tokens[position]):
        raise StoreError(f"{entity} lies outside the {len(tokens[position])} tokens of sentence {position}.")
    return " ".join(tokens[position][entity.start : entity.end])


def _row(run_id: str, item: Predicted) -> Row:
    position, prediction, generation = item
    return (
        *(run_id, position, prediction.generated, canonical_json(prediction.malformed)),
        *(generation.n_input_tokens, generation.n_truncated_tokens, generation.n_output_tokens),
        generation.finish_reason,
    )
