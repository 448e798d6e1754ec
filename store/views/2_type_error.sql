CREATE VIEW type_error AS
SELECT predicted.run_id, corpus_run_id, domain, split, predicted.position, predicted.start_token, predicted.end_token,
       gold.entity_type AS gold_type, gold.mention, predicted.entity_type AS predicted_type,
       sentence.text AS sentence_text
FROM predicted_entity AS predicted  -- not from gold_outcome: which boundaries touch is most of its work
JOIN prediction_corpus USING (run_id)
JOIN corpus ON corpus.run_id = corpus_run_id
JOIN gold_entity AS gold
  ON gold.run_id = corpus_run_id AND gold.position = predicted.position
 AND gold.start_token = predicted.start_token AND gold.end_token = predicted.end_token
JOIN corpus_sentence ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = predicted.position
JOIN sentence USING (sentence_id)
WHERE gold.entity_type <> predicted.entity_type;
COMMENT ON VIEW type_error IS 'Right span, wrong type: the confusions themselves.';
COMMENT ON COLUMN type_error.run_id IS 'The prediction run.';
COMMENT ON COLUMN type_error.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN type_error.domain IS 'Name of the domain.';
COMMENT ON COLUMN type_error.split IS 'train, dev or test.';
COMMENT ON COLUMN type_error.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN type_error.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN type_error.end_token IS 'Token after the last one.';
COMMENT ON COLUMN type_error.gold_type IS 'The type that is.';
COMMENT ON COLUMN type_error.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN type_error.predicted_type IS 'The type it was taken for.';
COMMENT ON COLUMN type_error.sentence_text IS 'The sentence.';
