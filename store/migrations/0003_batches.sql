-- What was handed to OpenAI's Batch API: written before anything waits for it, so that another process finds it again.

CREATE TABLE batch (
    submission_id VARCHAR NOT NULL,
    batch_id VARCHAR,
    input_file_id VARCHAR,
    backend_family VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    server_hash VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    status VARCHAR NOT NULL,
    cancel_asked BOOLEAN NOT NULL,
    host VARCHAR NOT NULL,
    pid INTEGER NOT NULL,
    process_start VARCHAR NOT NULL,
    created_utc TIMESTAMP NOT NULL,
    updated_utc TIMESTAMP NOT NULL,
    PRIMARY KEY (submission_id)
);
COMMENT ON TABLE batch IS 'Every batch of requests handed to a Batch API. It goes on at the server whatever becomes of the command.';
COMMENT ON COLUMN batch.submission_id IS 'Our name for it, also in its metadata at the server: written before the server has given one.';
COMMENT ON COLUMN batch.batch_id IS 'The server''s name for it; NULL until it has given one.';
COMMENT ON COLUMN batch.input_file_id IS 'The uploaded file of requests.';
COMMENT ON COLUMN batch.backend_family IS 'The kind of backend.';
COMMENT ON COLUMN batch.model IS 'The model, as in request.';
COMMENT ON COLUMN batch.server_hash IS 'Content hash of the base URL: only there the batch is known.';
COMMENT ON COLUMN batch.round IS '1 for the first time its requests were sent, then one more each time.';
COMMENT ON COLUMN batch.status IS 'announced (not known to be at the server), or what the server said last.';
COMMENT ON COLUMN batch.cancel_asked IS 'Whether cdner batches cancel was used on it.';
COMMENT ON COLUMN batch.host IS 'Machine that handed it over.';
COMMENT ON COLUMN batch.pid IS 'Process that handed it over.';
COMMENT ON COLUMN batch.process_start IS 'When that process started, in the system''s own count.';
COMMENT ON COLUMN batch.created_utc IS 'When it was announced.';
COMMENT ON COLUMN batch.updated_utc IS 'When its status was last seen to change.';

CREATE TABLE batch_request (
    submission_id VARCHAR NOT NULL,
    request_id VARCHAR NOT NULL,
    failure VARCHAR,
    PRIMARY KEY (submission_id, request_id)
);
COMMENT ON TABLE batch_request IS 'The requests of a batch; request_id is their custom_id at the server.';
COMMENT ON COLUMN batch_request.submission_id IS 'The batch.';
COMMENT ON COLUMN batch_request.request_id IS 'The request. With a completion it is answered.';
COMMENT ON COLUMN batch_request.failure IS 'Why this batch has no usable answer to it; NULL while it may have one.';
