-- Mentions an LLM has judged: the backbone's type, the LLM's, the right one, each with its probability.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the judge run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split
-- $gold text: only this gold type
-- $limit integer = 50: rows at most
SELECT gold_type, mention, backbone_type, backbone_probability, llm_type, llm_probability, sentence_text, domain,
       position, start_token, run_id
FROM judged_entity
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND step = 'judge'))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
  AND ($gold IS NULL OR gold_type = $gold)
ORDER BY run_id, position, start_token
LIMIT $limit
