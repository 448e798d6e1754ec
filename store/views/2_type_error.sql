CREATE VIEW type_error AS
SELECT * EXCLUDE (outcome) FROM gold_outcome WHERE outcome = 'misclassified';
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
