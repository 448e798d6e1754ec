-- Shares of the gold entities that were missed, found with a wrong boundary or given a wrong type, per type (figure 6).
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only this setting
-- $domain text: only this domain
-- $split text = test: the split scored
-- $gold text: only this type; * is all of them
-- $limit integer = 100: rows at most
SELECT experiment, setting, domain, split, entity_type, n_gold, missed, boundary, misclassified, total, n_spurious
FROM error_proportion
JOIN labelled_run USING (run_id, split)
WHERE ($experiment IS NULL OR $experiment IN (experiment, matrix)) AND ($setting IS NULL OR setting = $setting)
  AND ($domain IS NULL OR domain = $domain) AND split = $split AND ($gold IS NULL OR entity_type = $gold)
ORDER BY experiment, domain, entity_type, setting
LIMIT $limit
