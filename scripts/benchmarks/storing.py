"""Import into the store, confusion queries on many predicted entities, and how soon light commands answer."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measured import Cost, command_cost, cpu_seconds, least, process_cost, slope
from resampled import Silent, predicted, resampled, retyped, types_of, write_conll
from rows import Row, at_least, at_most, stated

from cdner.experiment.own_corpora import import_files
from cdner.files import content_hash
from cdner.store import Store, runs
from cdner.store.corpora import save_corpus
from cdner.store.predictions import save_predictions
from cdner.types import Corpus, Domain, Generation, Prediction, Sentence, TypeEntry

PIECE = 5_000  # predictions a transaction
N_TYPES = (4, 16, 65)
GENERATION = Generation("", n_input_tokens=1, n_truncated_tokens=0, n_output_tokens=1, finish_reason="stop")


def importing(real: Sequence[Sentence], n_sentences: int) -> tuple[list[Row], dict[str, Any]]:
    """The same rows into the same tables of two new stores, a third at a time, one transaction each.

    Ours begins at the corpus: it hashes the sentences, joins their texts and cuts the mentions. Theirs is given rows.
    """
    corpus, third = resampled(real, n_sentences), n_sentences // 3
    ours = theirs = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        stores = Store(Path(scratch) / "ours.duckdb"), Store(Path(scratch) / "theirs.duckdb")
        n_rows = 0
        for store in stores:  # to make one is not to import
            with store.transaction():
                pass
        for piece in range(3):
            part = replace(corpus, sentences=corpus.sentences[piece * third : (piece + 1) * third])
            seconds, _ = cpu_seconds(
                lambda part=part, run=f"run{piece}": save_corpus(stores[0], run, part, label_set(part))  # type: ignore[misc]
            )
            ours += seconds
            tables = _rows_of(stores[0], f"run{piece}")
            n_rows += sum(len(rows) for _, rows in tables)
            theirs += cpu_seconds(lambda tables=tables: _executemany(stores[1], tables))[0]  # type: ignore[misc]
    on = f"{n_sentences:,} sentences, {n_rows:,} rows, primary keys"
    rows = [
        at_least("import into the store", theirs / ours, 20, against="executemany in one transaction", on=on),
        stated("import into the store", n_rows / ours, unit="rows/s", on=on),
    ]
    return rows, {"cdner_cpu_seconds": ours, "executemany_cpu_seconds": theirs, "n_rows": n_rows}


def import_growth(real: Sequence[Sentence], n_sentences: int) -> tuple[list[Row], dict[str, Any]]:
    """``cdner import conll`` from file to store, over three numbers of sentences and of types."""
    sizes = [n_sentences // 4, n_sentences // 2, n_sentences]
    by_size = [_import_seconds(resampled(real, size)) for size in sizes]
    by_types = [_import_seconds(resampled(retyped(real, k), n_sentences // 4)) for k in N_TYPES]
    rows = [
        stated("growth of import", slope(sizes, by_size), unit="", on=f"{sizes} sentences"),
        stated("growth of import", slope(N_TYPES, by_types), unit="", on=f"{list(N_TYPES)} types"),
    ]
    details = {
        "import": dict(zip(sizes, by_size, strict=True)),
        "by_types": dict(zip(N_TYPES, by_types, strict=True)),
    }
    return rows, details


def querying(real: Sequence[Sentence], n_predicted: int) -> tuple[list[Row], dict[str, Any]]:
    """One prediction run that grows to ``n_predicted`` entities, asked at a quarter, a half and the whole."""
    per_sentence = sum(len(found.entities) for found in predicted(resampled(real, 5_000))) / 5_000
    corpus = resampled(real, round(n_predicted / per_sentence))
    found = predicted(corpus)
    asked: dict[str, dict[int, Cost]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "s.duckdb")
        corpus_run = _recorded(store, "import", ())
        save_corpus(store, corpus_run, corpus, label_set(corpus))
        run = _recorded(store, "predict", (corpus_run,))
        done, sizes = 0, []
        for share in (4, 2, 1):
            upto = len(found) // share
            _save(store, run, corpus_run, found, range(done, upto))
            done = upto
            sizes.append(sum(len(prediction.entities) for prediction in found[:upto]))
            for name, arguments in _questions(run, corpus.types).items():
                command = ("--store", store.path, *arguments)
                asked.setdefault(name, {})[sizes[-1]] = least([command_cost(*command) for _ in range(3)])
        evaluating = process_cost([sys.executable, "-c", _EVALUATE, str(store.path), corpus_run, run])
    return _query_rows(asked, sizes, evaluating), {
        "commands": {name: {n: _figures(cost) for n, cost in costs.items()} for name, costs in asked.items()},
        "evaluate": _figures(evaluating),
    }


def starting() -> tuple[list[Row], dict[str, Any]]:
    """The least of seven starts each."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "s.duckdb")
        _recorded(store, "import", ())
        help_cost = least([command_cost("--help") for _ in range(7)])
        sql_cost = least([command_cost("--store", store.path, "sql", "SELECT 1") for _ in range(7)])
    rows = []
    for name, cost, seconds in (("cdner --help", help_cost, 0.3), ("cdner sql", sql_cost, 0.6)):
        on = "CPU of all its processes, least of 7 starts"
        rows.append(at_most(name, cost.cpu_seconds, seconds, unit="s", on=on))
        rows.append(stated(name, cost.wall_seconds, unit="s", on="wall clock, likewise"))
    return rows, {"help": _figures(help_cost), "sql": _figures(sql_cost)}


def label_set(corpus: Corpus) -> Domain:
    return Domain(
        corpus.domain, "target", tuple(TypeEntry(name, name, name, "", "", "") for name in corpus.types)
    )


# What ``cdner evaluate`` does once its run is recorded: load both sides, score, count errors.
_EVALUATE = """
import sys
from pathlib import Path
from cdner.evaluate import evaluate_predictions
from cdner.store import Store
from cdner.store.corpora import load_corpus
from cdner.store.predictions import load_predictions
store = Store(Path(sys.argv[1]))
corpus, found = load_corpus(store, sys.argv[2]), load_predictions(store, sys.argv[3])
predictions = [found[position] for position in range(len(corpus.sentences))]
evaluate_predictions(corpus.sentences, predictions, corpus.types)
"""


def _questions(run: str, types: Sequence[str]) -> dict[str, tuple[str, ...]]:
    pair = ("--gold", types[0], "--predicted", types[1])
    return {
        "sql @most_confused": ("sql", "@most_confused"),
        "sql @pair_errors": ("sql", "@pair_errors", *pair),
        "errors": ("errors", run, *pair),
        "errors --kind boundary": ("errors", run, "--kind", "boundary"),
        "errors --kind missed": ("errors", run, "--kind", "missed"),
        "errors --kind spurious": ("errors", run, "--kind", "spurious"),
    }


def _query_rows(asked: dict[str, dict[int, Cost]], sizes: Sequence[int], evaluating: Cost) -> list[Row]:
    rows = []
    on = f"{sizes[-1]:,} predicted entities, the whole command, least of 3"
    for name, costs in asked.items():
        whole = costs[sizes[-1]]
        rows.append(at_most(f"cdner {name}", whole.cpu_seconds, 1.0, unit="s", on=f"CPU, {on}"))
        rows.append(stated(f"cdner {name}", whole.wall_seconds, unit="s", on=f"wall clock, {on}"))
        growth = slope(sizes, [costs[n].cpu_seconds for n in sizes])
        rows.append(stated(f"growth of cdner {name}", growth, unit="", on=f"{sizes} predicted entities"))
    peak = max(costs[sizes[-1]].peak_mib for costs in asked.values())
    rows.append(stated("memory of these commands", peak, unit="MiB", on=on))
    rows.append(stated("memory of scoring them", evaluating.peak_mib, unit="MiB", on=on))
    return rows


def _figures(cost: Cost) -> dict[str, float]:
    return {
        "cpu_seconds": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds,
        "peak_mib": cost.peak_mib,
    }


def _save(store: Store, run: str, corpus_run: str, found: Sequence[Prediction], positions: range) -> None:
    for start in range(positions.start, positions.stop, PIECE):
        chosen = range(start, min(start + PIECE, positions.stop))
        items = [(position, found[position], GENERATION) for position in chosen]
        save_predictions(store, run, items, corpus_run_id=corpus_run)


def _recorded(store: Store, step: str, inputs: Sequence[str]) -> str:
    """The run id of a step that is done."""
    spec = runs.run_spec(step, 1, {"benchmark": content_hash(step)}, inputs)
    runs.finish_attempt(store, runs.begin_attempt(store, spec, {}), "done")
    return spec.run_id


def _import_seconds(corpus: Corpus) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "test.txt"
        write_conll(corpus, path)
        return cpu_seconds(
            lambda: import_files(
                Path(scratch) / "s.duckdb",
                {"test": [path]},
                domain="resampled",
                role="target",
                labels=types_of(corpus.sentences),
                strict=True,
                progress=Silent(),
            )
        )[0]


def _rows_of(store: Store, run: str) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """What an import has written, table by table."""
    with store.reading() as connection:
        tables = [
            (table, connection.execute(f"FROM {table} WHERE run_id = ?", [run]).fetchall())
            for table in ("corpus", "corpus_sentence", "gold_entity", "domain_type")
        ]
        sentences = connection.execute(
            "SELECT sentence.* FROM sentence JOIN corpus_sentence USING (sentence_id) WHERE run_id = ?", [run]
        ).fetchall()
    return [*tables, ("sentence", sentences)]


def _executemany(store: Store, tables: Sequence[tuple[str, list[tuple[Any, ...]]]]) -> None:
    with store.transaction() as connection:
        for table, rows in tables:
            places = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 our own names
