-- Which type was taken for which, the most frequent confusion first.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only this setting
-- $run text: only the prediction run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $gold text: only this gold type
-- $predicted text: only what was taken for this type
-- $limit integer = 20: rows at most
SELECT n_confused, n_gold, share, gold_type, predicted_type, domain, split,
       (SELECT string_agg(DISTINCT concat(experiment, ':', setting), ' ') FROM labelled_run
        WHERE labelled_run.run_id = most_confused.run_id) AS part,
       run_id
FROM most_confused
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL AND $setting IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run
      WHERE ($experiment IS NULL OR $experiment IN (experiment, matrix)) AND ($setting IS NULL OR setting = $setting)))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
  AND ($gold IS NULL OR gold_type = $gold) AND ($predicted IS NULL OR predicted_type = $predicted)
ORDER BY n_confused DESC, share DESC, gold_type, predicted_type, run_id
LIMIT $limit
