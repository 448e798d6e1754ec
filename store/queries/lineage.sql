-- All that a run was made from: every run it depends on, directly or through others.
-- $run text: only the run whose id begins so
-- $experiment text: only runs of this experiment, or of all cells of this matrix
-- $limit integer = 100: rows at most
SELECT step, ancestor_step, depth, ancestor_run_id, run_id
FROM lineage
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix)))
ORDER BY run_id, depth, ancestor_step, ancestor_run_id
LIMIT $limit
