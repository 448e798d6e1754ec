CREATE VIEW missed_entity AS
WITH unmatched AS (  -- not from gold_outcome: what is found is most of its work
    SELECT prediction.run_id, corpus_run_id, prediction.position, gold.start_token, gold.end_token,
           gold.entity_type, gold.mention
    FROM prediction
    JOIN prediction_corpus USING (run_id)
    JOIN gold_entity AS gold ON gold.run_id = corpus_run_id AND gold.position = prediction.position
    ANTI JOIN predicted_entity AS exact
      ON exact.run_id = prediction.run_id AND exact.position = gold.position
     AND exact.start_token = gold.start_token AND exact.end_token = gold.end_token
),
touched AS (
    SELECT DISTINCT unmatched.run_id, unmatched.position, unmatched.start_token
    FROM unmatched JOIN predicted_entity AS predicted USING (run_id, position)
    WHERE predicted.start_token < unmatched.end_token AND unmatched.start_token < predicted.end_token
)
SELECT unmatched.run_id, corpus_run_id, domain, split, unmatched.position, unmatched.start_token, unmatched.end_token,
       unmatched.entity_type AS gold_type, unmatched.mention, touched.run_id IS NOT NULL AS is_boundary,
       sentence.text AS sentence_text
FROM unmatched
LEFT JOIN touched
  ON touched.run_id = unmatched.run_id AND touched.position = unmatched.position
 AND touched.start_token = unmatched.start_token
JOIN corpus ON corpus.run_id = corpus_run_id
JOIN corpus_sentence ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = unmatched.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW missed_entity IS 'Gold entities without a predicted entity of their exact span: what error_proportion.missed counts, boundary errors included.';
COMMENT ON COLUMN missed_entity.run_id IS 'The prediction run.';
COMMENT ON COLUMN missed_entity.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN missed_entity.domain IS 'Name of the domain.';
COMMENT ON COLUMN missed_entity.split IS 'train, dev or test.';
COMMENT ON COLUMN missed_entity.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN missed_entity.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN missed_entity.end_token IS 'Token after the last one.';
COMMENT ON COLUMN missed_entity.gold_type IS 'The type that is.';
COMMENT ON COLUMN missed_entity.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN missed_entity.is_boundary IS 'Whether some predicted entity overlaps (boundary_error shows which); else nothing was found there.';
COMMENT ON COLUMN missed_entity.sentence_text IS 'The sentence.';
