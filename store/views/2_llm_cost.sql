CREATE VIEW llm_cost AS
WITH written AS (
    SELECT run_id, request_id FROM reasoning
    UNION
    SELECT run_id, request_id FROM type_description WHERE request_id IS NOT NULL
),
called AS (  -- answers in use, whoever asked for them, and answers of own calls that were of no use
    SELECT run_id, request_id, attempt_n FROM written JOIN completion USING (request_id)
    UNION
    SELECT asked_by, request_id, attempt_n FROM completion WHERE asked_by IS NOT NULL
),
needed AS (
    SELECT DISTINCT lineage.run_id, request_id, attempt_n
    FROM lineage JOIN called ON called.run_id = ancestor_run_id
    WHERE lineage.step = 'evaluate'
)
SELECT needed.run_id, count(*) AS n_calls, sum(n_input_tokens)::BIGINT AS n_input_tokens,
       sum(n_output_tokens)::BIGINT AS n_output_tokens, sum(seconds) AS call_seconds, sum(cost_usd) AS cost_usd,
       count(*) FILTER (cost_usd IS NULL) AS n_calls_without_price
FROM needed
JOIN completion USING (request_id, attempt_n)
JOIN request USING (request_id)
WHERE backend_family <> 'file'  -- what a file brings was asked for elsewhere
GROUP BY needed.run_id;
COMMENT ON VIEW llm_cost IS 'What the LLM took for everything an evaluated score rests on: descriptions, reasoning for training and prediction, each answer once, whichever run paid for it. No row without an LLM.';
COMMENT ON COLUMN llm_cost.run_id IS 'The evaluate run.';
COMMENT ON COLUMN llm_cost.n_calls IS 'Answered calls, retries among them.';
COMMENT ON COLUMN llm_cost.n_input_tokens IS 'Tokens of their prompts.';
COMMENT ON COLUMN llm_cost.n_output_tokens IS 'Tokens written.';
COMMENT ON COLUMN llm_cost.call_seconds IS 'Seconds of all calls added up; calls at the same time count each.';
COMMENT ON COLUMN llm_cost.cost_usd IS 'US dollars of the calls with a known price; NULL when none has one.';
COMMENT ON COLUMN llm_cost.n_calls_without_price IS 'Calls that cost_usd leaves out.';
