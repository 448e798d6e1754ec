-- Gold entities found with a wrong boundary, each with what was predicted there.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text = full: the setting, where an experiment is named
-- $run text: only the prediction run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $gold text: only this gold type
-- $predicted text: only what was predicted as this type
-- $limit integer = 50: rows at most
SELECT gold_type, mention, predicted_type, predicted_mention, sentence_text, domain, position, start_token, run_id
FROM boundary_error
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND setting = $setting))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
  AND ($gold IS NULL OR gold_type = $gold)
  AND ($predicted IS NULL OR predicted_type = $predicted)
ORDER BY run_id, position, start_token, predicted_start
LIMIT $limit
