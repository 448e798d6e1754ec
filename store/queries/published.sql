-- Our overall F1 beside every published one of the same domain, and why the two must not be compared where they must not.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only our setting of this name
-- $domain text: only this target domain
-- $split text = test: the split we score
-- $metric text = strict: our scorer
-- $limit integer = 50: rows at most
SELECT target_domain, ours.setting, f1, method, year, published_f1, comparable, difference, why_not,
       published_backbone, publication, source_table, experiment
FROM published_comparison AS ours
JOIN labelled_run USING (experiment, label, run_id, split)
WHERE ($experiment IS NULL OR $experiment IN (experiment, matrix)) AND ($setting IS NULL OR ours.setting = $setting)
  AND ($domain IS NULL OR target_domain = $domain) AND split = $split AND metric_family = $metric
ORDER BY target_domain, experiment, ours.setting, published_f1 DESC, publication, source_table, method, published_backbone
LIMIT $limit
