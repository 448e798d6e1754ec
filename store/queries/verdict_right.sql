-- Who is right about the types of judged mentions, per gold type: backbone, LLM, both or neither.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the judge run whose id begins so
-- $domain text: only this domain
-- $split text = test: the split
-- $limit integer = 100: rows at most
SELECT domain, split, gold_type, sum(n_mentions)::BIGINT AS n_mentions,
       sum(n_both + n_backbone_only) / sum(n_mentions) AS backbone_right,
       sum(n_both + n_llm_only) / sum(n_mentions) AS llm_right,
       sum(n_backbone_only)::BIGINT AS n_backbone_only, sum(n_llm_only)::BIGINT AS n_llm_only,
       sum(n_neither)::BIGINT AS n_neither
FROM verdict_right
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix) AND step = 'judge'))
  AND ($domain IS NULL OR domain = $domain) AND split = $split
GROUP BY domain, split, gold_type
ORDER BY domain, n_mentions DESC, gold_type
LIMIT $limit
