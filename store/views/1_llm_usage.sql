CREATE VIEW llm_usage AS
WITH asked AS (
    SELECT run_id, request_id FROM reasoning
    UNION
    SELECT run_id, request_id FROM type_description WHERE request_id IS NOT NULL
),
answered AS (
    FROM completion
    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY attempt_n DESC) = 1
)
SELECT run_id, backend_family, model, count(*) AS n_requests, count(attempt_n) AS n_answered,
       coalesce(sum(n_input_tokens), 0)::BIGINT AS n_input_tokens,
       coalesce(sum(n_cached_tokens), 0)::BIGINT AS n_cached_tokens,
       sum(n_cached_tokens) / nullif(sum(n_input_tokens), 0) AS cached_share,
       coalesce(sum(n_output_tokens), 0)::BIGINT AS n_output_tokens
FROM asked
JOIN request USING (request_id)
LEFT JOIN answered USING (request_id)
GROUP BY ALL;
COMMENT ON VIEW llm_usage IS 'What each run has asked of which LLM: requests, answers, tokens.';
COMMENT ON COLUMN llm_usage.run_id IS 'The reason or describe run.';
COMMENT ON COLUMN llm_usage.backend_family IS 'The kind of backend.';
COMMENT ON COLUMN llm_usage.model IS 'The model.';
COMMENT ON COLUMN llm_usage.n_requests IS 'Different requests of the run.';
COMMENT ON COLUMN llm_usage.n_answered IS 'Those with an answer; answers are shared by all runs that ask the same.';
COMMENT ON COLUMN llm_usage.n_input_tokens IS 'Tokens of their prompts, of the latest answer each.';
COMMENT ON COLUMN llm_usage.n_cached_tokens IS 'Those of them the server had cached.';
COMMENT ON COLUMN llm_usage.cached_share IS 'n_cached_tokens / n_input_tokens; NULL without input.';
COMMENT ON COLUMN llm_usage.n_output_tokens IS 'Tokens written.';
