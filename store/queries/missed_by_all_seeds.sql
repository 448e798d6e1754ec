-- Gold entities that no seed of a setting found: experiments that differ in their seed alone are seeds of each other.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text = full: the setting
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $gold text: only this gold type
-- $min_seeds integer = 1: only where at least so many seeds have predicted the sentence
-- $limit integer = 50: rows at most
SELECT gold_type, mention, count(*) AS n_seeds, count_if(outcome = 'boundary') AS n_boundary, sentence_text,
       cell, domain, position, start_token
FROM gold_outcome
JOIN labelled_run USING (run_id, split)
WHERE step IN ('predict', 'extract', 'fuse') AND setting = $setting AND split = $split
  AND ($experiment IS NULL OR $experiment IN (experiment, matrix, cell))
  AND ($domain IS NULL OR domain = $domain) AND ($gold IS NULL OR gold_type = $gold)
GROUP BY cell, corpus_run_id, domain, position, start_token, end_token, gold_type, mention, sentence_text
HAVING bool_and(outcome IN ('boundary', 'not_found')) AND n_seeds >= $min_seeds
ORDER BY cell, domain, position, start_token
LIMIT $limit
