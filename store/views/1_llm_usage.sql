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
texts AS (  -- one row a request of a run: several sentences may share one
    SELECT run_id, request_id, count(*) FILTER (is_gap) AS n_gaps,
           count(*) FILTER (is_malformed) AS n_malformed, count(*) FILTER (lacks_part) AS n_parse_failures
    FROM (
        SELECT run_id, request_id, gap_reason IS NOT NULL AS is_gap, malformed::VARCHAR <> '{}' AS is_malformed,
               json_exists(malformed, '$.missing_initial') OR json_exists(malformed, '$.missing_bidirectional')
                   AS lacks_part
        FROM reasoning
        UNION ALL
        SELECT run_id, request_id, FALSE, origin = 'gloss', origin = 'gloss'
        FROM type_description WHERE request_id IS NOT NULL
        UNION ALL
        SELECT run_id, request_id, gap_reason IS NOT NULL,
               n_invalid > 0 OR len(log_probabilities) > list_count(log_probabilities), gap_reason IS NOT NULL
        FROM judged_mention WHERE request_id IS NOT NULL
    )
    GROUP BY run_id, request_id
),
answered AS (  -- joined and grouped, not listed or counted distinct: that takes twice the memory
    SELECT texts.run_id, texts.request_id, any_value(n_gaps) AS n_gaps, any_value(n_malformed) AS n_malformed,
           any_value(n_parse_failures) AS n_parse_failures, count(completion.request_id) > 0 AS is_answered,
           coalesce(bool_or(asked_by = texts.run_id), FALSE) AS is_own
    FROM texts LEFT JOIN completion USING (request_id)
    GROUP BY texts.run_id, texts.request_id
),
used AS (
    SELECT run_id, backend_family, model, count(*) AS n_requests,
           count(*) FILTER (is_answered) AS n_answered,
           count(*) FILTER (is_answered AND NOT is_own) AS n_reused,
           sum(n_gaps)::BIGINT AS n_gaps, sum(n_malformed)::BIGINT AS n_malformed,
           sum(n_parse_failures)::BIGINT AS n_parse_failures
    FROM answered JOIN request USING (request_id)
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
COMMENT ON COLUMN llm_usage.run_id IS 'The run that asks an LLM: reason, describe, extract or judge.';
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
COMMENT ON COLUMN llm_usage.n_gaps IS 'Sentences or mentions without an answer.';
COMMENT ON COLUMN llm_usage.n_malformed IS 'Texts in use with anything malformed (reasoning.malformed names it); descriptions where the gloss stands in.';
COMMENT ON COLUMN llm_usage.n_parse_failures IS 'Those that lack a part the setting asks for, after all retries.';
COMMENT ON COLUMN llm_usage.finish_reasons IS 'Finish reason to number of calls.';
