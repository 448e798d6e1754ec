CREATE VIEW missed_entity AS
SELECT * EXCLUDE (outcome, predicted_type, sentence_text), outcome = 'boundary' AS is_boundary, sentence_text
FROM gold_outcome
WHERE outcome IN ('boundary', 'not_found');
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
