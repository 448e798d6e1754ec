-- How many reasoning texts lack their second part, how many gold entities and types they name, and if that helps.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only this setting
-- $domain text: only this domain
-- $split text = test: the split
-- $limit integer = 100: rows at most
WITH named AS (
    SELECT cell, setting, domain, split, run_id, position, gold_type, lower(mention) AS mention, outcome,
           lower(concat_ws(' ', initial, bidirectional)) AS reasoning, bidirectional = '' AS without_bidirectional
    FROM gold_outcome
    JOIN prediction_reasoning USING (run_id, position)
    JOIN labelled_run USING (run_id, split)
    WHERE gap_reason IS NULL AND ($experiment IS NULL OR $experiment IN (experiment, matrix))
      AND ($setting IS NULL OR setting = $setting) AND ($domain IS NULL OR domain = $domain) AND split = $split
)
SELECT domain, cell, setting, split,
       count(DISTINCT (run_id, position)) AS n_texts,
       count(DISTINCT (run_id, position)) FILTER (without_bidirectional) / n_texts AS without_bidirectional,
       count(*) AS n_gold,
       avg(contains(reasoning, mention)::INTEGER) AS mention_named,
       avg(contains(reasoning, lower(gold_type))::INTEGER) AS type_named,
       avg((outcome = 'correct')::INTEGER) FILTER (contains(reasoning, mention)) AS recall_where_named,
       avg((outcome = 'correct')::INTEGER) FILTER (NOT contains(reasoning, mention)) AS recall_elsewhere
FROM named
GROUP BY ALL
ORDER BY domain, cell, setting
LIMIT $limit
