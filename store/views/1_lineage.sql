CREATE VIEW lineage AS
WITH RECURSIVE reached(run_id, ancestor_run_id, depth) AS (
    SELECT run_id, input_run_id, 1 FROM run_input
    UNION
    SELECT reached.run_id, run_input.input_run_id, reached.depth + 1
    FROM reached JOIN run_input ON run_input.run_id = reached.ancestor_run_id
)
SELECT reached.run_id, run.step, ancestor_run_id, ancestor.step AS ancestor_step, min(depth) AS depth
FROM reached
JOIN run ON run.run_id = reached.run_id
LEFT JOIN run AS ancestor ON ancestor.run_id = reached.ancestor_run_id
GROUP BY ALL;
COMMENT ON VIEW lineage IS 'Every run with all runs it depends on, directly or through others.';
COMMENT ON COLUMN lineage.run_id IS 'The dependent run.';
COMMENT ON COLUMN lineage.step IS 'Its kind of step.';
COMMENT ON COLUMN lineage.ancestor_run_id IS 'A run it depends on.';
COMMENT ON COLUMN lineage.ancestor_step IS 'Kind of step of that.';
COMMENT ON COLUMN lineage.depth IS '1 = a direct input; the shortest way counts.';
