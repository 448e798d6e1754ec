-- Scores of every experiment and setting, the best first; seeds of the same cell as one row with mean and deviation.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only this setting
-- $domain text: only this domain
-- $split text = test: the split scored
-- $metric text = strict: strict, span, mention_multiset or mention_set
-- $average text = micro: micro or macro
-- $limit integer = 50: rows at most
SELECT row_number() OVER (PARTITION BY domain ORDER BY avg(f1) DESC, cell, setting) AS place, domain, cell, setting,
       split, count(*) AS n_seeds, avg(precision) AS precision, avg(recall) AS recall, avg(f1) AS f1,
       stddev_samp(f1) AS deviation
FROM leaderboard
JOIN labelled_run USING (experiment, label, run_id, split)
WHERE metric_family = $metric AND average = $average AND split = $split
  AND ($experiment IS NULL OR $experiment IN (experiment, matrix, cell))
  AND ($setting IS NULL OR setting = $setting) AND ($domain IS NULL OR domain = $domain)
GROUP BY domain, cell, setting, split
ORDER BY domain, place
LIMIT $limit
