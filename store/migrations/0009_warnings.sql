-- What an attempt warned of: what was guessed, dropped or replaced on the way to its result.

CREATE TABLE attempt_warning (
    attempt_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    message VARCHAR NOT NULL
);
COMMENT ON TABLE attempt_warning IS 'The warnings of an execution, one line each; on stderr they stood behind "Warning:".';
COMMENT ON COLUMN attempt_warning.attempt_id IS 'The attempt.';
COMMENT ON COLUMN attempt_warning.position IS '0-based, in the order in which they were given.';
COMMENT ON COLUMN attempt_warning.message IS 'The line.';

COMMENT ON COLUMN reasoning.request_id IS 'The request whose completion the text was parsed from, the one of the best retry; of texts from a file and of told verdicts, a request that holds the sentence alone and was never sent.';
