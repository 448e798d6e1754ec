CREATE VIEW boundary_error AS
SELECT unmatched.run_id, corpus_run_id, domain, split, unmatched.position, unmatched.start_token, unmatched.end_token,
       unmatched.entity_type AS gold_type, unmatched.mention, predicted.start_token AS predicted_start,
       predicted.end_token AS predicted_end, predicted.entity_type AS predicted_type,
       predicted.mention AS predicted_mention, sentence.text AS sentence_text
FROM (  -- not from gold_outcome: what is missed is most of its work
    SELECT prediction_corpus.run_id, corpus_run_id, gold.position, gold.start_token, gold.end_token,
           gold.entity_type, gold.mention
    FROM prediction_corpus
    JOIN gold_entity AS gold ON gold.run_id = corpus_run_id
    ANTI JOIN predicted_entity AS exact
      ON exact.run_id = prediction_corpus.run_id AND exact.position = gold.position
     AND exact.start_token = gold.start_token AND exact.end_token = gold.end_token
) AS unmatched
JOIN predicted_entity AS predicted
  ON predicted.run_id = unmatched.run_id AND predicted.position = unmatched.position
 AND predicted.start_token < unmatched.end_token AND unmatched.start_token < predicted.end_token
JOIN corpus ON corpus.run_id = corpus_run_id
JOIN corpus_sentence ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = unmatched.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW boundary_error IS 'Gold entities without a predicted entity of their exact span, with each one that overlaps.';
COMMENT ON COLUMN boundary_error.run_id IS 'The prediction run.';
COMMENT ON COLUMN boundary_error.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN boundary_error.domain IS 'Name of the domain.';
COMMENT ON COLUMN boundary_error.split IS 'train, dev or test.';
COMMENT ON COLUMN boundary_error.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN boundary_error.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN boundary_error.end_token IS 'Token after the last one.';
COMMENT ON COLUMN boundary_error.gold_type IS 'The type that is.';
COMMENT ON COLUMN boundary_error.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN boundary_error.predicted_start IS 'First token of the overlapping prediction.';
COMMENT ON COLUMN boundary_error.predicted_end IS 'Token after its last one.';
COMMENT ON COLUMN boundary_error.predicted_type IS 'Its type.';
COMMENT ON COLUMN boundary_error.predicted_mention IS 'Its tokens.';
COMMENT ON COLUMN boundary_error.sentence_text IS 'The sentence.';
