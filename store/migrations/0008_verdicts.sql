-- How sure a model is of each type it predicts, what an LLM says of it, and how the two became one decision.

ALTER TABLE predicted_entity ADD COLUMN probability DOUBLE;
ALTER TABLE predicted_entity ADD COLUMN runner_up VARCHAR;
ALTER TABLE predicted_entity ADD COLUMN runner_up_probability DOUBLE;
COMMENT ON COLUMN predicted_entity.probability IS 'Probability of the predicted type among the domain''s types, for this span; NULL where the model does not say.';
COMMENT ON COLUMN predicted_entity.runner_up IS 'The most probable other type; NULL where the model does not say.';
COMMENT ON COLUMN predicted_entity.runner_up_probability IS 'Its probability.';

CREATE TABLE type_probability (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    start_token INTEGER NOT NULL,
    end_token INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    probability DOUBLE NOT NULL
);
COMMENT ON TABLE type_probability IS 'The whole distribution over types of every predicted entity whose model says how sure it is.';
COMMENT ON COLUMN type_probability.run_id IS 'The prediction run.';
COMMENT ON COLUMN type_probability.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN type_probability.start_token IS 'First token of the span, 0-based.';
COMMENT ON COLUMN type_probability.end_token IS 'Token after the last one.';
COMMENT ON COLUMN type_probability.entity_type IS 'A type of the domain.';
COMMENT ON COLUMN type_probability.probability IS 'Its probability for this span; the types of a span sum to 1.';

CREATE TABLE judged_mention (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    start_token INTEGER NOT NULL,
    end_token INTEGER NOT NULL,
    request_id VARCHAR,
    candidates VARCHAR[] NOT NULL,
    log_probabilities DOUBLE[] NOT NULL,
    origin VARCHAR,
    n_invalid INTEGER NOT NULL,
    gap_reason VARCHAR
);
COMMENT ON TABLE judged_mention IS 'The mentions an LLM was asked to judge, and its figures; the view verdict has them by type.';
COMMENT ON COLUMN judged_mention.run_id IS 'The judge run.';
COMMENT ON COLUMN judged_mention.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN judged_mention.start_token IS 'First token of the mention, 0-based.';
COMMENT ON COLUMN judged_mention.end_token IS 'Token after the last one.';
COMMENT ON COLUMN judged_mention.request_id IS 'The question; NULL where the verdict came in a bundle without the corpora''s text.';
COMMENT ON COLUMN judged_mention.candidates IS 'The types it was asked to choose from.';
COMMENT ON COLUMN judged_mention.log_probabilities IS 'For each candidate the natural logarithm of the probability that the LLM names it next, to four decimals; NULL where it is not known, empty where the question has no answer.';
COMMENT ON COLUMN judged_mention.origin IS 'Where the figures are from: logits, top_logprobs or sampled; NULL where the question has no answer.';
COMMENT ON COLUMN judged_mention.n_invalid IS 'Figures that a server sent and that cannot be log-probabilities.';
COMMENT ON COLUMN judged_mention.gap_reason IS 'Why the question has no answer; NULL when it has one.';

CREATE TABLE shown_mention (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    start_token INTEGER NOT NULL,
    end_token INTEGER NOT NULL,
    place INTEGER NOT NULL,
    train_position INTEGER NOT NULL,
    train_start_token INTEGER NOT NULL,
    train_end_token INTEGER NOT NULL,
    likeness DOUBLE NOT NULL
);
COMMENT ON TABLE shown_mention IS 'The labelled mentions of train shown to the LLM with each question. Kept as data: on another processor the nearest ones may be others.';
COMMENT ON COLUMN shown_mention.run_id IS 'The judge run.';
COMMENT ON COLUMN shown_mention.position IS 'Of the mention asked about: 0-based place of the sentence in the corpus.';
COMMENT ON COLUMN shown_mention.start_token IS 'Its first token, 0-based.';
COMMENT ON COLUMN shown_mention.end_token IS 'Token after its last one.';
COMMENT ON COLUMN shown_mention.place IS '0-based place in the prompt; the last one is the most alike.';
COMMENT ON COLUMN shown_mention.train_position IS 'Of the mention shown: 0-based place of the sentence in train.';
COMMENT ON COLUMN shown_mention.train_start_token IS 'Its first token, 0-based.';
COMMENT ON COLUMN shown_mention.train_end_token IS 'Token after its last one.';
COMMENT ON COLUMN shown_mention.likeness IS 'Cosine of the mentions plus the weighted cosine of the sentences.';

CREATE TABLE fusion_weight (
    run_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    value DOUBLE NOT NULL
);
COMMENT ON TABLE fusion_weight IS 'How a fuse run weighs the backbone''s and the LLM''s log-probabilities, fitted on dev.';
COMMENT ON COLUMN fusion_weight.run_id IS 'The fuse run.';
COMMENT ON COLUMN fusion_weight.name IS 'backbone, llm, bias:<type>, or n_dev_mentions (how many mentions the fit saw).';
COMMENT ON COLUMN fusion_weight.value IS 'The weight.';
