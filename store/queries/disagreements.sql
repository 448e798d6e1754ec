-- Spans the LLM alone and a backbone label differently, and who is right: the LLM, the backbone or neither.
-- $llm text = llm_only: the setting whose predictions are the LLM's
-- $backbone text = without_all: the setting whose predictions are the backbone's
-- $experiment text: only this experiment, or all cells of this matrix
-- $domain text: only this domain
-- $split text = test: the split predicted
-- $gold text: only spans of this gold type
-- $limit integer = 50: rows at most
WITH paired AS (
    SELECT experiment, llm.run_id AS llm_run_id, backbone.run_id AS backbone_run_id
    FROM labelled_run AS llm JOIN labelled_run AS backbone USING (experiment, split)
    WHERE llm.step IN ('predict', 'extract', 'fuse') AND llm.setting = $llm
      AND backbone.step IN ('predict', 'extract', 'fuse') AND backbone.setting = $backbone AND split = $split
      AND ($experiment IS NULL OR $experiment IN (experiment, llm.matrix))
),
by_both AS (  -- only sentences both have predicted
    SELECT paired.*, position
    FROM paired
    JOIN prediction AS by_llm ON by_llm.run_id = llm_run_id
    JOIN prediction AS by_backbone USING (position)
    WHERE by_backbone.run_id = backbone_run_id
),
spans AS (
    SELECT experiment, domain, position, start_token, end_token, any_value(mention) AS mention,
           max(gold_type) AS gold_type,
           max(predicted_type) FILTER (run_id = llm_run_id) AS llm_type,
           max(predicted_type) FILTER (run_id = backbone_run_id) AS backbone_type,
           any_value(sentence_text) AS sentence_text
    FROM by_both JOIN span_label USING (position)
    WHERE run_id IN (llm_run_id, backbone_run_id)
    GROUP BY experiment, domain, position, start_token, end_token
)
SELECT CASE WHEN llm_type IS NOT DISTINCT FROM gold_type THEN 'LLM'
            WHEN backbone_type IS NOT DISTINCT FROM gold_type THEN 'backbone'
            ELSE 'neither' END AS who_is_right,
       mention, gold_type, llm_type, backbone_type, sentence_text, experiment, domain, position, start_token
FROM spans
WHERE llm_type IS DISTINCT FROM backbone_type
  AND ($domain IS NULL OR domain = $domain) AND ($gold IS NULL OR gold_type = $gold)
ORDER BY experiment, domain, position, start_token, end_token
LIMIT $limit
