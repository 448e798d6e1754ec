-- How often the predicted type is right, by how sure the model is of it: 15 bins of equal width, those that are filled.
-- $experiment text: only this experiment, or all cells of this matrix
-- $setting text: only this setting
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $spans text = found: found (predicted spans that are a gold entity's) or all (others count as wrong)
-- $limit integer = 200: rows at most
SELECT experiment, setting, domain, labelled_run.split, greatest(1, ceil(probability * 15))::INTEGER AS bin,
       count(*) AS n, avg(probability) AS mean_probability,
       avg(CASE WHEN gold.entity_type = predicted.entity_type THEN 1.0 ELSE 0.0 END) AS share_right
FROM predicted_entity AS predicted
JOIN labelled_run USING (run_id)
JOIN prediction_corpus USING (run_id)
JOIN corpus ON corpus.run_id = corpus_run_id
LEFT JOIN gold_entity AS gold
  ON gold.run_id = corpus_run_id AND gold.position = predicted.position
 AND gold.start_token = predicted.start_token AND gold.end_token = predicted.end_token
WHERE probability IS NOT NULL AND setting IS NOT NULL AND labelled_run.split = $split
  AND ($spans = 'all' OR gold.entity_type IS NOT NULL)
  AND ($experiment IS NULL OR $experiment IN (experiment, matrix, cell))
  AND ($setting IS NULL OR setting = $setting) AND ($domain IS NULL OR domain = $domain)
GROUP BY experiment, setting, domain, labelled_run.split, bin
ORDER BY experiment, setting, domain, bin
LIMIT $limit
