CREATE VIEW prediction_reasoning AS
WITH made_with AS (
    SELECT run_input.run_id, input_run_id AS reason_run_id
    FROM run_input JOIN run ON run.run_id = input_run_id AND run.step IN ('reason', 'tell')
    UNION ALL
    SELECT run_id, run_id FROM run WHERE step = 'extract'
)
SELECT prediction.run_id, prediction.position, reason_run_id, initial, bidirectional, gap_reason
FROM prediction
JOIN made_with USING (run_id)
JOIN reasoning ON reasoning.run_id = reason_run_id AND reasoning.position = prediction.position;
COMMENT ON VIEW prediction_reasoning IS 'The reasoning, or the told verdicts, a model had before it when it predicted a sentence; no row where it had none.';
COMMENT ON COLUMN prediction_reasoning.run_id IS 'The prediction run.';
COMMENT ON COLUMN prediction_reasoning.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN prediction_reasoning.reason_run_id IS 'The run that wrote it; the prediction run itself where the LLM predicted alone.';
COMMENT ON COLUMN prediction_reasoning.initial IS 'Initial reasoning; empty when the setting leaves it out.';
COMMENT ON COLUMN prediction_reasoning.bidirectional IS 'Bidirectional reasoning; or the verdicts on the mentions of the sentence, as text.';
COMMENT ON COLUMN prediction_reasoning.gap_reason IS 'Why the LLM did not answer; NULL when it did.';
