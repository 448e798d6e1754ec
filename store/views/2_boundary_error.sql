CREATE VIEW boundary_error AS
SELECT gold.* EXCLUDE (outcome, predicted_type, sentence_text),
       predicted.start_token AS predicted_start, predicted.end_token AS predicted_end,
       predicted.entity_type AS predicted_type, predicted.mention AS predicted_mention, gold.sentence_text
FROM gold_outcome AS gold
JOIN predicted_entity AS predicted
  ON predicted.run_id = gold.run_id AND predicted.position = gold.position
 AND predicted.start_token < gold.end_token AND gold.start_token < predicted.end_token
WHERE gold.outcome = 'boundary';
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
