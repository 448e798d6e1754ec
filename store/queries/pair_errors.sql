-- The errors of a pair of types one by one: the sentence, and the reasoning the model had before it.
-- $gold text: the type that is
-- $predicted text: the type it was taken for
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text = full: the setting, where an experiment is named
-- $run text: only the prediction run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $limit integer = 20: rows at most
SELECT gold_type, predicted_type, mention, sentence_text, initial, bidirectional, gap_reason,
       domain, position, start_token, type_error.run_id
FROM type_error
LEFT JOIN prediction_reasoning USING (run_id, position)
WHERE ($run IS NULL OR starts_with(type_error.run_id, $run))
  AND ($experiment IS NULL OR type_error.run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND setting = $setting))
  AND ($gold IS NULL OR gold_type = $gold) AND ($predicted IS NULL OR predicted_type = $predicted)
  AND ($domain IS NULL OR domain = $domain) AND split = $split
ORDER BY gold_type, predicted_type, type_error.run_id, position, start_token
LIMIT $limit
