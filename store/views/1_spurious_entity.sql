CREATE VIEW spurious_entity AS
SELECT predicted.run_id, corpus_run_id, domain, split, predicted.position, predicted.start_token,
       predicted.end_token, predicted.entity_type AS predicted_type, predicted.mention, sentence.text AS sentence_text
FROM predicted_entity AS predicted
JOIN prediction_corpus USING (run_id)
JOIN corpus ON corpus.run_id = corpus_run_id
ANTI JOIN gold_entity AS gold  -- three times as fast as NOT EXISTS
  ON gold.run_id = corpus_run_id AND gold.position = predicted.position
 AND predicted.start_token < gold.end_token AND gold.start_token < predicted.end_token
JOIN corpus_sentence
  ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = predicted.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW spurious_entity IS 'Predicted entities that touch no gold entity.';
COMMENT ON COLUMN spurious_entity.run_id IS 'The prediction run.';
COMMENT ON COLUMN spurious_entity.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN spurious_entity.domain IS 'Name of the domain.';
COMMENT ON COLUMN spurious_entity.split IS 'train, dev or test.';
COMMENT ON COLUMN spurious_entity.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN spurious_entity.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN spurious_entity.end_token IS 'Token after the last one.';
COMMENT ON COLUMN spurious_entity.predicted_type IS 'The type predicted.';
COMMENT ON COLUMN spurious_entity.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN spurious_entity.sentence_text IS 'The sentence.';
