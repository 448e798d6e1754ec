CREATE VIEW span_label AS
WITH labelled AS (
    SELECT prediction.run_id, position, start_token, end_token, mention,
           entity_type AS gold_type, NULL::VARCHAR AS predicted_type
    FROM prediction
    JOIN prediction_corpus USING (run_id)
    JOIN gold_entity USING (position)
    WHERE gold_entity.run_id = corpus_run_id
    UNION ALL
    SELECT run_id, position, start_token, end_token, mention, NULL, entity_type FROM predicted_entity
),
span AS (
    SELECT run_id, position, start_token, end_token, any_value(mention) AS mention,
           max(gold_type) AS gold_type, max(predicted_type) AS predicted_type
    FROM labelled
    GROUP BY run_id, position, start_token, end_token
)
SELECT span.run_id, corpus_run_id, domain, split, span.position, start_token, end_token, mention,
       gold_type, predicted_type, sentence.text AS sentence_text
FROM span
JOIN prediction_corpus USING (run_id)
JOIN corpus ON corpus.run_id = corpus_run_id
JOIN corpus_sentence ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = span.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW span_label IS 'Every span that is a gold entity, or that a prediction run took for one, with both types. Spans may overlap.';
COMMENT ON COLUMN span_label.run_id IS 'The prediction run.';
COMMENT ON COLUMN span_label.corpus_run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN span_label.domain IS 'Name of the domain.';
COMMENT ON COLUMN span_label.split IS 'train, dev or test.';
COMMENT ON COLUMN span_label.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN span_label.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN span_label.end_token IS 'Token after the last one.';
COMMENT ON COLUMN span_label.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN span_label.gold_type IS 'The type that is; NULL where there is no gold entity of this span.';
COMMENT ON COLUMN span_label.predicted_type IS 'The type predicted; NULL where nothing was predicted for this span.';
COMMENT ON COLUMN span_label.sentence_text IS 'The sentence.';
