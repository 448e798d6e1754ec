-- What a point of F1 over the baseline costs in dollars, seconds and tokens of the LLM, per experiment and setting.
-- $baseline text = without_all: the setting the gain is counted from
-- $metric text = strict: the scorer
-- $experiment text: only this experiment, or all cells of this matrix
-- $domain text: only this domain
-- $split text = test: the split scored
WITH scored AS (
    SELECT experiment, matrix, setting, run_id, domain, score.split, 100 * f1 AS f1
    FROM labelled_run JOIN score USING (run_id)
    WHERE step = 'evaluate' AND metric_family = $metric AND entity_type = '*' AND score.split = $split
)
SELECT experiment, ours.setting, domain, ours.f1, ours.f1 - baseline.f1 AS gain, n_calls, n_output_tokens,
       call_seconds, cost_usd, n_calls_without_price,
       CASE WHEN gain > 0 THEN cost_usd / gain END AS usd_per_point,
       CASE WHEN gain > 0 THEN call_seconds / gain END AS seconds_per_point,
       CASE WHEN gain > 0 THEN n_output_tokens / gain END AS tokens_per_point
FROM scored AS ours
JOIN scored AS baseline USING (experiment, domain)
JOIN llm_cost ON llm_cost.run_id = ours.run_id
WHERE baseline.setting = $baseline AND ours.setting <> $baseline
  AND ($experiment IS NULL OR $experiment IN (experiment, ours.matrix)) AND ($domain IS NULL OR domain = $domain)
ORDER BY domain, gain DESC, experiment, ours.setting
