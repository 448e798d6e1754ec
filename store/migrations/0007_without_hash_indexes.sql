-- What every sentence adds to under a content hash loses its primary key. To insert rows DuckDB loads every page of an
-- index in which their keys may lie, and hashes lie anywhere: 70 MiB a table at a million rows, and twice the file.
-- What has a name already is looked for before it is inserted, by the one process that may write.

CREATE TABLE request_7 (
    request_id VARCHAR NOT NULL,
    backend_family VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    sampling JSON NOT NULL,
    response_schema VARCHAR,
    prompt_hash VARCHAR NOT NULL
);
INSERT INTO request_7 SELECT * FROM request;
DROP TABLE request;
ALTER TABLE request_7 RENAME TO request;
COMMENT ON TABLE request IS 'Every question put to an LLM, once.';
COMMENT ON COLUMN request.request_id IS 'Content hash of backend family, model, messages, sampling and schema.';
COMMENT ON COLUMN request.backend_family IS 'The kind of backend.';
COMMENT ON COLUMN request.model IS 'The model, with its revision where known.';
COMMENT ON COLUMN request.sampling IS 'Maximum tokens, temperature, top_p, seed and stop texts.';
COMMENT ON COLUMN request.response_schema IS 'JSON schema the answer must follow; NULL when none was asked for.';
COMMENT ON COLUMN request.prompt_hash IS 'Content hash of the messages alone: the same prompt to two models.';

CREATE TABLE request_message_7 (
    request_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    role VARCHAR NOT NULL,
    text_id VARCHAR NOT NULL
);
INSERT INTO request_message_7 SELECT * FROM request_message;
DROP TABLE request_message;
ALTER TABLE request_message_7 RENAME TO request_message;
COMMENT ON TABLE request_message IS 'The messages of a request in order.';
COMMENT ON COLUMN request_message.request_id IS 'The request.';
COMMENT ON COLUMN request_message.position IS '0-based place.';
COMMENT ON COLUMN request_message.role IS 'system, user or assistant.';
COMMENT ON COLUMN request_message.text_id IS 'The message''s text, in prompt_text.';

CREATE TABLE prompt_text_7 (
    text_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL
);
INSERT INTO prompt_text_7 SELECT * FROM prompt_text;
DROP TABLE prompt_text;
ALTER TABLE prompt_text_7 RENAME TO prompt_text;
COMMENT ON TABLE prompt_text IS 'Texts of messages, each once: the long fixed part of a prompt is shared by all its sentences.';
COMMENT ON COLUMN prompt_text.text_id IS 'Content hash of the text.';
COMMENT ON COLUMN prompt_text.text IS 'The text.';

CREATE TABLE completion_7 (
    request_id VARCHAR NOT NULL,
    attempt_n INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    finish_reason VARCHAR NOT NULL,
    n_input_tokens INTEGER NOT NULL,
    n_cached_tokens INTEGER NOT NULL,
    n_output_tokens INTEGER NOT NULL,
    created_utc TIMESTAMP NOT NULL,
    asked_by VARCHAR,
    seconds DOUBLE,
    cost_usd DOUBLE
);
INSERT INTO completion_7 SELECT * FROM completion;
DROP TABLE completion;
ALTER TABLE completion_7 RENAME TO completion;
COMMENT ON TABLE completion IS 'What an LLM answered. Data, not a cache: written as it arrives, never deleted; the latest answer counts.';
COMMENT ON COLUMN completion.request_id IS 'The request answered.';
COMMENT ON COLUMN completion.attempt_n IS '1 for the first answer to the request.';
COMMENT ON COLUMN completion.text IS 'The raw answer.';
COMMENT ON COLUMN completion.finish_reason IS 'stop, length, or what the backend says.';
COMMENT ON COLUMN completion.n_input_tokens IS 'Tokens of the prompt.';
COMMENT ON COLUMN completion.n_cached_tokens IS 'Those of them the server had cached.';
COMMENT ON COLUMN completion.n_output_tokens IS 'Tokens of the answer.';
COMMENT ON COLUMN completion.created_utc IS 'When it was stored.';
COMMENT ON COLUMN completion.asked_by IS 'The run that made the call; other runs that ask the same use its answer.';
COMMENT ON COLUMN completion.seconds IS 'From asking to the whole answer.';
COMMENT ON COLUMN completion.cost_usd IS 'US dollars by the price list of its day; NULL when no price is known.';
