CREATE VIEW gold_outcome AS
WITH gold AS (
    SELECT prediction.run_id, corpus_run_id, domain, split, position, start_token, end_token,
           entity_type AS gold_type, mention
    FROM prediction
    JOIN prediction_corpus USING (run_id)
    JOIN corpus ON corpus.run_id = corpus_run_id
    JOIN gold_entity USING (position)
    WHERE gold_entity.run_id = corpus_run_id
),
touched AS (
    SELECT DISTINCT gold.run_id, gold.position, gold.start_token
    FROM gold
    JOIN predicted_entity AS predicted USING (run_id, position)
    WHERE predicted.start_token < gold.end_token AND gold.start_token < predicted.end_token
)
SELECT gold.run_id, gold.corpus_run_id, gold.domain, gold.split, gold.position, gold.start_token, gold.end_token,
       gold.gold_type, gold.mention,
       CASE WHEN exact.entity_type = gold.gold_type THEN 'correct'
            WHEN exact.entity_type IS NOT NULL THEN 'misclassified'
            WHEN touched.run_id IS NOT NULL THEN 'boundary'
            ELSE 'not_found' END AS outcome,
       exact.entity_type AS predicted_type,
       sentence.text AS sentence_text
FROM gold
LEFT JOIN predicted_entity AS exact USING (run_id, position, start_token, end_token)
LEFT JOIN touched
  ON touched.run_id = gold.run_id AND touched.position = gold.position AND touched.start_token = gold.start_token
JOIN corpus_sentence ON corpus_sentence.run_id = gold.corpus_run_id AND corpus_sentence.position = gold.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW gold_outcome IS 'What became of every gold entity of every predicted sentence.';
COMMENT ON COLUMN gold_outcome.run_id IS 'The prediction run.';
COMMENT ON COLUMN gold_outcome.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN gold_outcome.domain IS 'Name of the domain.';
COMMENT ON COLUMN gold_outcome.split IS 'train, dev or test.';
COMMENT ON COLUMN gold_outcome.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN gold_outcome.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN gold_outcome.end_token IS 'Token after the last one.';
COMMENT ON COLUMN gold_outcome.gold_type IS 'The type that is.';
COMMENT ON COLUMN gold_outcome.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN gold_outcome.outcome IS 'correct, misclassified (exact span, wrong type), boundary (no exact span, but some predicted entity overlaps) or not_found (no predicted entity overlaps). Missed, as in error_proportion and missed_entity, = boundary + not_found.';
COMMENT ON COLUMN gold_outcome.predicted_type IS 'The type predicted for the exact span; NULL without one.';
COMMENT ON COLUMN gold_outcome.sentence_text IS 'The sentence.';
