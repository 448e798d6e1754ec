"""What a report shows, read from the views by run: one function a view, rows as named tuples.

Knows which runs belong to an experiment; computes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from cdner.errors import InputError, unknown_name
from cdner.store.connection import Store


class ScoreRow(NamedTuple):
    run_id: str
    domain: str
    split: str
    metric_family: str
    average: str
    n_gold: int
    precision: float
    recall: float
    f1: float


class ConfusionRow(NamedTuple):
    run_id: str
    gold_type: str
    confused_type: str
    u_hie: float | None
    u_sim: float | None
    u_iml: float | None
    v_iml: float | None
    r_m: float | None
    v_exl: float | None
    v_conf: float | None
    rival_rank: int | None


class ErrorRow(NamedTuple):
    run_id: str
    position: int
    kind: str  # type, boundary, missed or spurious
    gold_type: str | None
    predicted_type: str | None
    start_token: int
    end_token: int


class ConfidenceRow(NamedTuple):
    run_id: str
    probability: float  # of the predicted type
    is_right: bool


class VerdictRightRow(NamedTuple):
    run_id: str  # of the judge run
    domain: str
    split: str
    gold_type: str
    n_mentions: int
    n_both: int
    n_backbone_only: int
    n_llm_only: int
    n_neither: int


class JudgedRow(NamedTuple):
    run_id: str  # of the judge run
    position: int
    start_token: int
    end_token: int
    llm_type: str
    llm_probability: float


class FusionWeightRow(NamedTuple):
    run_id: str
    domain: str
    split: str
    name: str
    value: float


class PublishedRow(NamedTuple):
    source_domain: str  # ours
    target_domain: str
    metric_family: str
    method: str
    year: int | None
    published_setting: str
    published_source_domain: str
    shots: str
    published_backbone: str
    published_llm: str
    published_f1: float
    comparable: bool
    why_not: str
    difference: float | None
    publication: str
    source_table: str


class ExecutedRow(NamedTuple):
    run_id: str
    step: str
    status: str | None
    finished_utc: Any
    seconds: float | None
    settings: str
    weights_sha256: str | None
    file_sha256: str | None  # of an imported corpus


def labelled_runs(store: Store, names: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Experiment -> label -> run, the latest labelled where settings have changed since; in order of first labels.

    A name stands for the experiment of that name, and for all cells ``name[axis=value]`` of a matrix; no name for
    every experiment. UsageError for a name the store does not know, InputError when it has no experiment.
    """
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT experiment, label, arg_max(run_id, labelled_utc) FROM experiment_run"
            " GROUP BY experiment, label"
            " ORDER BY min(min(labelled_utc)) OVER (PARTITION BY experiment), experiment, min(labelled_utc), label"
        ).fetchall()
    if not rows:
        raise InputError(f"The store {store.path} has no experiment. Run one: 'cdner run EXPERIMENT'.")
    known = dict.fromkeys(row[0] for row in rows)
    for name in names:
        if not any(_means(name, experiment) for experiment in known):
            raise unknown_name("experiment in the store", name, known)
    found: dict[str, dict[str, str]] = {}
    for experiment, label, run_id in rows:
        if not names or any(_means(name, experiment) for name in names):
            found.setdefault(experiment, {})[label] = run_id
    return found


def _means(name: str, experiment: str) -> bool:
    return experiment == name or experiment.startswith(f"{name}[")


def score_rows(store: Store, run_ids: Collection[str]) -> list[ScoreRow]:
    """The view leaderboard of evaluate runs, each once whatever experiments share it."""
    columns = ", ".join(ScoreRow._fields)
    statement = f"SELECT DISTINCT {columns} FROM leaderboard WHERE run_id IN (SELECT unnest(?))"  # noqa: S608
    return [ScoreRow(*row) for row in _rows(store, statement, run_ids)]


def published_rows(store: Store, run_ids: Collection[str]) -> list[PublishedRow]:
    """Every published score once, beside the one of these evaluate runs that fewest reasons forbid comparing."""
    columns = ", ".join(PublishedRow._fields)
    statement = f"""
        SELECT {columns} FROM published_comparison WHERE run_id IN (SELECT unnest(?))
        QUALIFY row_number() OVER (
            PARTITION BY publication, source_table, method, published_setting, published_source_domain, shots,
                         published_backbone, published_llm, target_domain, published_f1, metric_family = 'span'
            ORDER BY comparable DESC, len(string_split(why_not, '; ')), metric_family, experiment, label) = 1
        ORDER BY target_domain, published_f1 DESC, publication, source_table, method
    """  # noqa: S608  our own names
    return [PublishedRow(*row) for row in _rows(store, statement, run_ids)]


def confusion_rows(store: Store, run_ids: Collection[str]) -> list[ConfusionRow]:
    """The view confusion_wide of quantify runs."""
    statement = (
        f"SELECT {', '.join(ConfusionRow._fields)} FROM confusion_wide WHERE run_id IN (SELECT unnest(?))"  # noqa: S608
    )
    return [ConfusionRow(*row) for row in _rows(store, statement, run_ids)]


def error_rows(store: Store, run_ids: Collection[str]) -> list[ErrorRow]:
    """Every error of predict runs once, in text order; of several predictions that overlap a gold entity the first."""
    statement = """
        WITH chosen AS (SELECT unnest(?) AS run_id)
        SELECT run_id, position, 'type' AS kind, gold_type, predicted_type, start_token, end_token
        FROM type_error SEMI JOIN chosen USING (run_id)
        UNION ALL
        SELECT run_id, position, 'boundary', gold_type, arg_min(predicted_type, predicted_start),
               start_token, end_token
        FROM boundary_error SEMI JOIN chosen USING (run_id)
        GROUP BY run_id, position, gold_type, start_token, end_token
        UNION ALL
        SELECT run_id, position, 'missed', gold_type, NULL, start_token, end_token
        FROM missed_entity SEMI JOIN chosen USING (run_id) WHERE NOT is_boundary
        UNION ALL
        SELECT run_id, position, 'spurious', NULL, predicted_type, start_token, end_token
        FROM spurious_entity SEMI JOIN chosen USING (run_id)
        ORDER BY run_id, position, start_token, kind
    """
    return [ErrorRow(*row) for row in _rows(store, statement, run_ids)]


def confidence_rows(store: Store, run_ids: Collection[str]) -> list[ConfidenceRow]:
    """How sure predict runs are of the types of gold entities' spans, and whether each is right.

    Nothing of predictions without probabilities, nor of spans that are no gold entity's.
    """
    statement = """
        SELECT predicted.run_id, predicted.probability, predicted.entity_type = gold.entity_type
        FROM predicted_entity AS predicted
        JOIN prediction_corpus USING (run_id)
        JOIN gold_entity AS gold
          ON gold.run_id = corpus_run_id AND gold.position = predicted.position
         AND gold.start_token = predicted.start_token AND gold.end_token = predicted.end_token
        WHERE predicted.probability IS NOT NULL AND predicted.run_id IN (SELECT unnest(?))
        ORDER BY predicted.run_id, predicted.position, predicted.start_token
    """
    return [ConfidenceRow(*row) for row in _rows(store, statement, run_ids)]


def verdict_right_rows(store: Store, run_ids: Collection[str]) -> list[VerdictRightRow]:
    """The view verdict_right of judge runs, types in their declared order."""
    columns = ", ".join(f"verdict_right.{name}" for name in VerdictRightRow._fields)
    statement = f"""
        SELECT {columns} FROM verdict_right
        JOIN run_input ON run_input.run_id = verdict_right.run_id AND run_input.position = 1  -- the corpus
        LEFT JOIN domain_type ON domain_type.run_id = input_run_id AND entity_type = gold_type
        WHERE verdict_right.run_id IN (SELECT unnest(?))
        ORDER BY verdict_right.run_id, domain_type.position, gold_type
    """  # noqa: S608  our own names
    return [VerdictRightRow(*row) for row in _rows(store, statement, run_ids)]


def judged_rows(store: Store, run_ids: Collection[str]) -> list[JudgedRow]:
    """The LLM's first choice for every mention of judge runs that has a verdict, in text order."""
    statement = """
        SELECT run_id, position, start_token, end_token, entity_type, probability FROM verdict
        WHERE rank = 1 AND run_id IN (SELECT unnest(?)) ORDER BY run_id, position, start_token
    """
    return [JudgedRow(*row) for row in _rows(store, statement, run_ids)]


def fusion_weight_rows(store: Store, run_ids: Collection[str]) -> list[FusionWeightRow]:
    """The weights of fuse runs, with the corpus that each predicts; biases in the declared order of types."""
    statement = """
        SELECT fusion_weight.run_id, corpus.domain, corpus.split, fusion_weight.name, fusion_weight.value
        FROM fusion_weight JOIN prediction_corpus USING (run_id) JOIN corpus ON corpus.run_id = corpus_run_id
        LEFT JOIN domain_type ON domain_type.run_id = corpus_run_id AND 'bias:' || entity_type = fusion_weight.name
        WHERE fusion_weight.run_id IN (SELECT unnest(?))
        ORDER BY fusion_weight.run_id, domain_type.position, fusion_weight.name
    """
    return [FusionWeightRow(*row) for row in _rows(store, statement, run_ids)]


def predictions_scored(store: Store, run_ids: Collection[str]) -> dict[str, str]:
    """Evaluate run -> the run whose predictions it scored."""
    statement = """
        SELECT run_id, input_run_id FROM run_input
        WHERE run_id IN (SELECT unnest(?)) AND input_run_id IN (SELECT run_id FROM prediction_corpus)
    """
    return dict(_rows(store, statement, run_ids))


def reasoning_inputs(store: Store, run_ids: Collection[str]) -> dict[str, str]:
    """Predict run -> the reason or tell run whose texts it read, for those that read one (view lineage)."""
    statement = """
        SELECT run_id, ancestor_run_id FROM lineage
        WHERE depth = 1 AND ancestor_step IN ('reason', 'tell') AND run_id IN (SELECT unnest(?))
    """
    return dict(_rows(store, statement, run_ids))


def target_domain(store: Store, run_id: str) -> str:
    """The domain of the target corpora a run descends from; empty without one."""
    statement = """
        SELECT DISTINCT domain FROM lineage JOIN corpus ON corpus.run_id = ancestor_run_id
        WHERE lineage.run_id IN (SELECT unnest(?)) AND role = 'target' ORDER BY domain
    """
    return ", ".join(str(name) for (name,) in _rows(store, statement, [run_id]))


def executed_rows(store: Store, run_ids: Collection[str]) -> list[ExecutedRow]:
    """How each run ended, what it was asked and, of training, the checksum of its weights."""
    statement = """
        SELECT run_id, latest_attempt.step, status, finished_utc, seconds, CAST(settings AS VARCHAR), weights_sha256,
               settings ->> '$.sha256'
        FROM latest_attempt JOIN run USING (run_id) LEFT JOIN checkpoint USING (run_id)
        WHERE run_id IN (SELECT unnest(?)) ORDER BY started_utc, run_id
    """
    return [ExecutedRow(*row) for row in _rows(store, statement, run_ids)]


def _rows(store: Store, statement: str, run_ids: Collection[str]) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return connection.execute(statement, [list(run_ids)]).fetchall()
