CREATE VIEW llm_usage AS
WITH called AS (  -- what each run has paid for, answers it could not use too; the n-th retry has the run's seed + n
    SELECT asked_by AS run_id, backend_family, model, count(*) AS n_calls,
           count(*) FILTER ((sampling ->> 'seed')::BIGINT <> (settings -> 'llm' ->> 'seed')::BIGINT) AS n_retries,
           sum(n_input_tokens)::BIGINT AS n_input_tokens,
           sum(n_cached_tokens)::BIGINT AS n_cached_tokens,
           sum(n_output_tokens)::BIGINT AS n_output_tokens,
           sum(cost_usd) AS cost_usd, sum(seconds) AS call_seconds,
           max(epoch(completion.created_utc)) - min(epoch(completion.created_utc) - coalesce(seconds, 0))
               AS wall_seconds,
           histogram(finish_reason) AS finish_reasons
    FROM completion
    JOIN request USING (request_id)
    LEFT JOIN run ON run.run_id = asked_by
    WHERE asked_by IS NOT NULL AND backend_family <> 'file'  -- what a file brings was asked for elsewhere
    GROUP BY ALL
),
written AS (  -- one row a text: several sentences may share a request
    SELECT run_id, request_id, gap_reason IS NOT NULL AS is_gap, malformed::VARCHAR <> '{}' AS is_malformed,
           json_exists(malformed, '$.missing_initial') OR json_exists(malformed, '$.missing_bidirectional')
               AS lacks_part
    FROM reasoning
    UNION ALL
    SELECT run_id, request_id, FALSE, origin = 'gloss', origin = 'gloss'
    FROM type_description WHERE request_id IS NOT NULL
),
answered AS (
    SELECT request_id, list(DISTINCT asked_by) AS asked_by FROM completion GROUP BY request_id
),
used AS (
    SELECT written.run_id, backend_family, model, count(DISTINCT request_id) AS n_requests,
           count(DISTINCT request_id) FILTER (asked_by IS NOT NULL) AS n_answered,
           count(DISTINCT request_id) FILTER (NOT list_contains(asked_by, written.run_id)) AS n_reused,
           count(*) FILTER (is_gap) AS n_gaps, count(*) FILTER (is_malformed) AS n_malformed,
           count(*) FILTER (lacks_part) AS n_parse_failures
    FROM written
    JOIN request USING (request_id)
    LEFT JOIN answered USING (request_id)
    GROUP BY ALL
),
read_split AS (
    SELECT run_input.run_id, min(split) AS split
    FROM run_input JOIN corpus ON corpus.run_id = input_run_id
    GROUP BY run_input.run_id
)
SELECT run_id, backend_family, model, split, coalesce(n_requests, 0) AS n_requests,
       coalesce(n_answered, 0) AS n_answered, coalesce(n_reused, 0) AS n_reused,
       coalesce(n_calls, 0) AS n_calls, coalesce(n_retries, 0) AS n_retries,
       coalesce(n_input_tokens, 0) AS n_input_tokens, coalesce(n_cached_tokens, 0) AS n_cached_tokens,
       n_cached_tokens / nullif(n_input_tokens, 0) AS cached_share,
       coalesce(n_output_tokens, 0) AS n_output_tokens,
       cost_usd, call_seconds, wall_seconds, coalesce(n_gaps, 0) AS n_gaps,
       coalesce(n_malformed, 0) AS n_malformed, coalesce(n_parse_failures, 0) AS n_parse_failures, finish_reasons
FROM called
FULL JOIN used USING (run_id, backend_family, model)
LEFT JOIN read_split USING (run_id);
COMMENT ON VIEW llm_usage IS 'What each run has asked of which LLM: calls and what they took, answers of other runs it used, what is wrong with its texts.';
COMMENT ON COLUMN llm_usage.run_id IS 'The reason or describe run.';
COMMENT ON COLUMN llm_usage.backend_family IS 'The kind of backend.';
COMMENT ON COLUMN llm_usage.model IS 'The model.';
COMMENT ON COLUMN llm_usage.split IS 'The split whose sentences were asked about; NULL for descriptions.';
COMMENT ON COLUMN llm_usage.n_requests IS 'Different requests the run''s texts come from; 0 until it has stored its texts.';
COMMENT ON COLUMN llm_usage.n_answered IS 'Those with an answer; answers are shared by all runs that ask the same.';
COMMENT ON COLUMN llm_usage.n_reused IS 'Those answered by calls of other runs alone (or before it was recorded who called): they cost this run nothing.';
COMMENT ON COLUMN llm_usage.n_calls IS 'Answered calls the run made, retries among them: tokens, cost, seconds and finish reasons are theirs.';
COMMENT ON COLUMN llm_usage.n_retries IS 'Calls for an answer that was cut off or lacked a part: the run''s seed plus 1, 2 ...';
COMMENT ON COLUMN llm_usage.n_input_tokens IS 'Tokens of their prompts.';
COMMENT ON COLUMN llm_usage.n_cached_tokens IS 'Those of them the server had cached.';
COMMENT ON COLUMN llm_usage.cached_share IS 'n_cached_tokens / n_input_tokens; NULL without input.';
COMMENT ON COLUMN llm_usage.n_output_tokens IS 'Tokens written.';
COMMENT ON COLUMN llm_usage.cost_usd IS 'US dollars by the price list of their day, of the calls with a known price; NULL when none has one.';
COMMENT ON COLUMN llm_usage.call_seconds IS 'Seconds of all calls added up; calls at the same time count each.';
COMMENT ON COLUMN llm_usage.wall_seconds IS 'From the beginning of the first call to the storing of the last answer, pauses between two commands too.';
COMMENT ON COLUMN llm_usage.n_gaps IS 'Sentences without an answer.';
COMMENT ON COLUMN llm_usage.n_malformed IS 'Texts in use with anything malformed (reasoning.malformed names it); descriptions where the gloss stands in.';
COMMENT ON COLUMN llm_usage.n_parse_failures IS 'Those that lack a part the setting asks for, after all retries.';
COMMENT ON COLUMN llm_usage.finish_reasons IS 'Finish reason to number of calls.';
