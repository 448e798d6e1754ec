-- Types whose errors became fewer from one setting to another: by default what backward reasoning is good for.
-- $before text = without_backward: the setting without
-- $after text = full: the setting with
-- $experiment text: only this experiment, or all cells of this matrix
-- $domain text: only this domain
-- $split text = test: the split scored
-- $gold text: only this type
-- $limit integer = 50: rows at most
WITH scored AS (
    SELECT experiment, setting, error_count.*, n_missed + n_misclassified AS n_errors
    FROM error_count JOIN labelled_run USING (run_id, split)
    WHERE step = 'evaluate' AND entity_type <> '*'
)
SELECT experiment, b.domain, b.split, b.entity_type, b.n_gold,
       b.n_misclassified AS misclassified_before, a.n_misclassified AS misclassified_after,
       b.n_missed AS missed_before, a.n_missed AS missed_after,
       b.n_errors AS errors_before, a.n_errors AS errors_after, b.n_errors - a.n_errors AS dropped,
       (b.n_errors - a.n_errors) / b.n_gold AS dropped_share
FROM scored AS b
JOIN scored AS a USING (experiment, domain, split, entity_type)
WHERE b.setting = $before AND a.setting = $after AND a.n_errors < b.n_errors AND split = $split
  AND ($experiment IS NULL OR $experiment IN (experiment, regexp_replace(experiment, '\[.*\]$', '')))
  AND ($domain IS NULL OR domain = $domain) AND ($gold IS NULL OR entity_type = $gold)
ORDER BY dropped DESC, dropped_share DESC, experiment, domain, entity_type
LIMIT $limit
