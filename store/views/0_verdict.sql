CREATE VIEW verdict AS
WITH figure AS (
    SELECT run_id, position, start_token, end_token, unnest(candidates) AS entity_type,
           unnest(log_probabilities) AS log_probability, list_min(log_probabilities) AS smallest,
           generate_subscripts(candidates, 1) AS place
    FROM judged_mention WHERE gap_reason IS NULL
),
bounded AS (  -- a candidate without a figure counts as improbable as the least probable one that has a figure
    SELECT *, exp(coalesce(log_probability, smallest, 0) - max(coalesce(log_probability, smallest, 0)) OVER mention) AS weight
    FROM figure
    WINDOW mention AS (PARTITION BY run_id, position, start_token, end_token)
)
SELECT run_id, position, start_token, end_token, entity_type, log_probability,
       weight / sum(weight) OVER mention AS probability,
       row_number() OVER (PARTITION BY run_id, position, start_token, end_token ORDER BY weight DESC, place) AS rank
FROM bounded
WINDOW mention AS (PARTITION BY run_id, position, start_token, end_token);
COMMENT ON VIEW verdict IS 'What the LLM says of each candidate type of a judged mention.';
COMMENT ON COLUMN verdict.run_id IS 'The judge run.';
COMMENT ON COLUMN verdict.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN verdict.start_token IS 'First token of the mention, 0-based.';
COMMENT ON COLUMN verdict.end_token IS 'Token after the last one.';
COMMENT ON COLUMN verdict.entity_type IS 'A candidate type.';
COMMENT ON COLUMN verdict.log_probability IS 'Natural logarithm of the probability that the LLM names this type next; NULL where it is not known.';
COMMENT ON COLUMN verdict.probability IS 'The same among the candidates, where one without a figure counts as the least probable one that has a figure; they sum to 1.';
COMMENT ON COLUMN verdict.rank IS '1 for the most probable candidate.';
