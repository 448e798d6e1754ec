-- Which sentences a model was trained on: a few-shot sample is a result as much as the model is.

CREATE TABLE training_sentence (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    corpus_run_id VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE training_sentence IS 'The sentences a model was trained on. Models trained before schema version 6 have none here.';
COMMENT ON COLUMN training_sentence.run_id IS 'The training run.';
COMMENT ON COLUMN training_sentence.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN training_sentence.corpus_run_id IS 'The import run of the corpus.';
