CREATE VIEW latest_attempt AS
SELECT run_id, step, attempt_id, attempt_n, status, host, started_utc, finished_utc,
       epoch(finished_utc) - epoch(started_utc) AS seconds, error
FROM run LEFT JOIN attempt USING (run_id)
QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY attempt_n DESC) = 1;
COMMENT ON VIEW latest_attempt IS 'Every run with its latest execution.';
COMMENT ON COLUMN latest_attempt.run_id IS 'The run.';
COMMENT ON COLUMN latest_attempt.step IS 'Kind of step.';
COMMENT ON COLUMN latest_attempt.attempt_id IS 'Its latest attempt; NULL when it was never executed.';
COMMENT ON COLUMN latest_attempt.attempt_n IS 'How often it was executed.';
COMMENT ON COLUMN latest_attempt.status IS 'As stored; running may also mean killed, which cdner runs tells apart.';
COMMENT ON COLUMN latest_attempt.host IS 'Name of the machine.';
COMMENT ON COLUMN latest_attempt.started_utc IS 'Start.';
COMMENT ON COLUMN latest_attempt.finished_utc IS 'End; NULL while running or after a kill.';
COMMENT ON COLUMN latest_attempt.seconds IS 'Duration.';
COMMENT ON COLUMN latest_attempt.error IS 'The error''s one line; empty when there was none.';
