-- How the latest execution of every run ended, and how long it took, the longest first.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the run whose id begins so
-- $status text: only this status, such as failed
-- $limit integer = 50: rows at most
SELECT step, status, seconds, attempt_n, started_utc, finished_utc, host, error, run_id
FROM latest_attempt
WHERE ($run IS NULL OR starts_with(run_id, $run)) AND ($status IS NULL OR status = $status)
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix)))
ORDER BY seconds DESC NULLS LAST, run_id
LIMIT $limit
