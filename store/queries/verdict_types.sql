-- Every candidate type of every judged mention with the LLM's probability, the most probable first.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the judge run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split
-- $gold text: only mentions of this gold type
-- $limit integer = 100: rows at most
SELECT mention, gold_type, rank, entity_type, verdict.probability, log_probability, sentence_text, domain,
       position, start_token, run_id
FROM verdict
JOIN judged_entity USING (run_id, position, start_token, end_token)
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND step = 'judge'))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
  AND ($gold IS NULL OR gold_type = $gold)
ORDER BY run_id, position, start_token, rank
LIMIT $limit
