CREATE VIEW judged_entity AS
WITH first_choice AS (
    SELECT run_id, position, start_token, end_token, entity_type AS llm_type, probability AS llm_probability
    FROM verdict WHERE rank = 1
)
SELECT judged.run_id, predicted.run_id AS predict_run_id, corpus.domain, corpus.split, judged.position,
       judged.start_token, judged.end_token, predicted.mention,
       predicted.entity_type AS backbone_type, predicted.probability AS backbone_probability,
       first_choice.llm_type, first_choice.llm_probability,
       gold.entity_type AS gold_type, sentence.text AS sentence_text
FROM judged_mention AS judged
JOIN run_input ON run_input.run_id = judged.run_id AND run_input.position = 0  -- the judged predictions come first
JOIN predicted_entity AS predicted
  ON predicted.run_id = run_input.input_run_id AND predicted.position = judged.position
 AND predicted.start_token = judged.start_token AND predicted.end_token = judged.end_token
JOIN prediction_corpus ON prediction_corpus.run_id = predicted.run_id
JOIN corpus ON corpus.run_id = prediction_corpus.corpus_run_id
LEFT JOIN first_choice
  ON first_choice.run_id = judged.run_id AND first_choice.position = judged.position
 AND first_choice.start_token = judged.start_token AND first_choice.end_token = judged.end_token
LEFT JOIN gold_entity AS gold
  ON gold.run_id = corpus.run_id AND gold.position = judged.position
 AND gold.start_token = judged.start_token AND gold.end_token = judged.end_token
JOIN corpus_sentence ON corpus_sentence.run_id = corpus.run_id AND corpus_sentence.position = judged.position
JOIN sentence USING (sentence_id);
COMMENT ON VIEW judged_entity IS 'Every mention an LLM was asked to judge: what the backbone says, what the LLM says, what is right.';
COMMENT ON COLUMN judged_entity.run_id IS 'The judge run.';
COMMENT ON COLUMN judged_entity.predict_run_id IS 'The prediction run whose entities are judged.';
COMMENT ON COLUMN judged_entity.domain IS 'Name of the domain.';
COMMENT ON COLUMN judged_entity.split IS 'train, dev or test.';
COMMENT ON COLUMN judged_entity.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN judged_entity.start_token IS 'First token of the mention, 0-based.';
COMMENT ON COLUMN judged_entity.end_token IS 'Token after the last one.';
COMMENT ON COLUMN judged_entity.mention IS 'The tokens covered, joined by single spaces.';
COMMENT ON COLUMN judged_entity.backbone_type IS 'The type the backbone predicts.';
COMMENT ON COLUMN judged_entity.backbone_probability IS 'Its probability by the backbone; NULL where the model does not say.';
COMMENT ON COLUMN judged_entity.llm_type IS 'The candidate type the LLM finds most probable; NULL where the question has no answer.';
COMMENT ON COLUMN judged_entity.llm_probability IS 'Its probability among the candidates.';
COMMENT ON COLUMN judged_entity.gold_type IS 'The type of the gold entity with this span; NULL where the span is no gold entity.';
COMMENT ON COLUMN judged_entity.sentence_text IS 'The sentence.';
