-- What a unit of each kind of step took on each machine: a sentence (in a training once an epoch), a call of an LLM, a step.
-- $experiment text: only this experiment, or all cells of this matrix
-- $step text: only this kind of step
SELECT step, weights, with_reasoning, host, count(*) AS n_runs, sum(seconds) AS seconds,
       median(seconds_per_unit) AS median_seconds_per_unit
FROM step_duration
WHERE ($step IS NULL OR step = $step)
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix)))
GROUP BY ALL
ORDER BY seconds DESC, step, weights, with_reasoning, host
