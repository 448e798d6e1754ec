CREATE VIEW step_duration AS
WITH unit AS (
    SELECT run_id, count(*) * any_value((settings -> 'training' ->> 'epochs')::BIGINT
                                        * coalesce((settings -> 'crossfit' ->> 'folds')::BIGINT - 1, 1)) AS n_units
    FROM training_sentence JOIN run USING (run_id) GROUP BY run_id
    UNION ALL
    SELECT run_id, count(*) FROM prediction JOIN run USING (run_id) WHERE step = 'predict' GROUP BY run_id
    UNION ALL
    SELECT run_id, count(*) FROM completion JOIN run ON run_id = asked_by
    WHERE (settings -> 'llm' ->> 'backend') IS DISTINCT FROM 'file' GROUP BY run_id
),
trained AS (  -- whose model a run reads
    SELECT run_input.run_id, any_value(settings ->> 'weights') AS weights
    FROM run_input JOIN run ON run.run_id = input_run_id AND step = 'train'
    GROUP BY run_input.run_id
)
SELECT run_id, step, coalesce(settings ->> 'weights', weights, '') AS weights,
       coalesce(list_contains(list_transform((settings -> 'roles')::VARCHAR[], lambda role: role LIKE '%reasoning'), TRUE), FALSE)
           AS with_reasoning,
       host, seconds, coalesce(n_units, if(step IN ('train', 'crossfit', 'predict'), 0, 1)) AS n_units,
       seconds / nullif(coalesce(n_units, if(step IN ('train', 'crossfit', 'predict'), 0, 1)), 0) AS seconds_per_unit
FROM latest_attempt
JOIN run USING (run_id, step)
LEFT JOIN unit USING (run_id)
LEFT JOIN trained USING (run_id)
WHERE status = 'done' AND attempt_n = 1;  -- carried out in one go
COMMENT ON VIEW step_duration IS 'How long runs took that were carried out in one go, in all and per unit of their work.';
COMMENT ON COLUMN step_duration.run_id IS 'The run.';
COMMENT ON COLUMN step_duration.step IS 'Kind of step.';
COMMENT ON COLUMN step_duration.weights IS 'Identity of the backbone''s or LLM''s weights; empty where none is used.';
COMMENT ON COLUMN step_duration.with_reasoning IS 'Whether reasoning texts stood in the model''s input.';
COMMENT ON COLUMN step_duration.host IS 'Name of the machine.';
COMMENT ON COLUMN step_duration.seconds IS 'Duration.';
COMMENT ON COLUMN step_duration.n_units IS 'Sentences times epochs of a training (of crossfit times the folds that train on each), sentences of a prediction, calls of an LLM; 1 for other steps.';
COMMENT ON COLUMN step_duration.seconds_per_unit IS 'Duration of one unit; NULL where there was none.';
