CREATE VIEW reasoning_text AS
SELECT reasoning.run_id, domain, split, reasoning.position, text,
       CASE WHEN backend_family = 'file' THEN regexp_replace(model, '@[0-9a-f]{12}$', '') ELSE model END AS model,
       initial, bidirectional
FROM reasoning
JOIN request USING (request_id)
JOIN run_input ON run_input.run_id = reasoning.run_id
JOIN corpus ON corpus.run_id = input_run_id
JOIN corpus_sentence ON corpus_sentence.run_id = input_run_id AND corpus_sentence.position = reasoning.position
JOIN sentence USING (sentence_id)
WHERE gap_reason IS NULL;
COMMENT ON VIEW reasoning_text IS 'The reasoning texts with their sentences, as `cdner reason --from` reads them; gaps are left out.';
COMMENT ON COLUMN reasoning_text.run_id IS 'The reason or tell run.';
COMMENT ON COLUMN reasoning_text.domain IS 'Name of the domain.';
COMMENT ON COLUMN reasoning_text.split IS 'train, dev or test.';
COMMENT ON COLUMN reasoning_text.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN reasoning_text.text IS 'The sentence.';
COMMENT ON COLUMN reasoning_text.model IS 'Who wrote it, or whose verdicts it tells; of a text from a file without the file''s checksum.';
COMMENT ON COLUMN reasoning_text.initial IS 'Initial reasoning.';
COMMENT ON COLUMN reasoning_text.bidirectional IS 'Bidirectional reasoning; or the verdicts on the mentions of the sentence, as text.';
