-- What the LLM wrote for every sentence, in text order.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text = full: the setting, where an experiment is named
-- $run text: only the reason run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split
-- $limit integer = 20: rows at most
SELECT domain, position, text, initial, bidirectional, model, run_id
FROM reasoning_text
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND setting = $setting))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
ORDER BY run_id, position
LIMIT $limit
