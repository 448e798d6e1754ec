-- What each run asked of which LLM: calls, tokens, share of cached prompt tokens, seconds, cost, gaps, useless texts.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the run whose id begins so
-- $limit integer = 50: rows at most
SELECT (SELECT string_agg(DISTINCT concat(experiment, '/', label), ' ' ORDER BY concat(experiment, '/', label))
        FROM labelled_run WHERE labelled_run.run_id = llm_usage.run_id) AS part,
       model, n_requests, n_reused, n_calls, n_retries, n_input_tokens, cached_share, n_output_tokens,
       call_seconds, cost_usd, n_gaps, n_malformed, run_id
FROM llm_usage
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix)))
ORDER BY n_output_tokens DESC, run_id, model
LIMIT $limit
