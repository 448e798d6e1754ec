-- The first schema. No foreign keys: DuckDB cannot delete a parent and its children in one transaction;
-- `cdner store verify` checks the references instead. Timestamps are UTC and say so in their names.

CREATE TABLE migration (
    version INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    applied_utc TIMESTAMP NOT NULL,
    PRIMARY KEY (version)
);
COMMENT ON TABLE migration IS 'Migrations applied to this store, one row each.';
COMMENT ON COLUMN migration.version IS 'Number of the migration file; the largest is the schema version.';
COMMENT ON COLUMN migration.name IS 'File name under store/migrations.';
COMMENT ON COLUMN migration.applied_utc IS 'When it was applied.';

CREATE TABLE view_source (
    name VARCHAR NOT NULL,
    text_hash VARCHAR NOT NULL,
    PRIMARY KEY (name)
);
COMMENT ON TABLE view_source IS 'The views cdner made, with the hash of the text each was made from; a changed text remakes them all.';
COMMENT ON COLUMN view_source.name IS 'Name of the view.';
COMMENT ON COLUMN view_source.text_hash IS 'Content hash of its file under store/views.';

CREATE TABLE run (
    run_id VARCHAR NOT NULL,
    step VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    settings JSON NOT NULL,
    created_utc TIMESTAMP NOT NULL,
    PRIMARY KEY (run_id)
);
COMMENT ON TABLE run IS 'What was asked: one step with its settings and inputs. Its identity is the hash of exactly that.';
COMMENT ON COLUMN run.run_id IS 'Content hash of step, version, settings and input run ids.';
COMMENT ON COLUMN run.step IS 'Kind of step: import, train, predict, describe, embed, quantify, reason, evaluate.';
COMMENT ON COLUMN run.version IS 'Version of the step; raised when its result changes for the same settings.';
COMMENT ON COLUMN run.settings IS 'Everything that determines the result, as canonical JSON.';
COMMENT ON COLUMN run.created_utc IS 'When it was first asked.';

CREATE TABLE run_input (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    input_run_id VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE run_input IS 'The runs a run reads from, in order.';
COMMENT ON COLUMN run_input.run_id IS 'The reading run.';
COMMENT ON COLUMN run_input.position IS '0-based place among the inputs.';
COMMENT ON COLUMN run_input.input_run_id IS 'The run read from.';

CREATE TABLE attempt (
    attempt_id VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    attempt_n INTEGER NOT NULL,
    status VARCHAR NOT NULL CHECK (status IN ('running', 'done', 'partial', 'failed', 'interrupted')),
    execution JSON NOT NULL,
    host VARCHAR NOT NULL,
    pid BIGINT NOT NULL,
    process_start VARCHAR NOT NULL,
    versions JSON NOT NULL,
    git_commit VARCHAR,
    started_utc TIMESTAMP NOT NULL,
    finished_utc TIMESTAMP,
    error VARCHAR NOT NULL,
    PRIMARY KEY (attempt_id)
);
COMMENT ON TABLE attempt IS 'One execution of a run: when, where, by which versions, with what outcome.';
COMMENT ON COLUMN attempt.attempt_id IS 'run_id, a dot, attempt_n.';
COMMENT ON COLUMN attempt.run_id IS 'The run executed.';
COMMENT ON COLUMN attempt.attempt_n IS '1 for the first execution of the run.';
COMMENT ON COLUMN attempt.status IS 'running, done, partial, failed or interrupted. A running attempt whose process is gone counts as partial.';
COMMENT ON COLUMN attempt.execution IS 'How it was carried out (device, batch size, concurrency ...); in no identity.';
COMMENT ON COLUMN attempt.host IS 'Name of the machine.';
COMMENT ON COLUMN attempt.pid IS 'Process id on that machine.';
COMMENT ON COLUMN attempt.process_start IS 'The kernel''s start time of that process, so that a reused pid is not mistaken for it; empty where unknown.';
COMMENT ON COLUMN attempt.versions IS 'Versions of Python, cdner and the libraries that shape results.';
COMMENT ON COLUMN attempt.git_commit IS 'Commit of the checkout cdner ran from; NULL for an installed package.';
COMMENT ON COLUMN attempt.started_utc IS 'Start of the execution.';
COMMENT ON COLUMN attempt.finished_utc IS 'End of the execution; NULL while running or after a kill.';
COMMENT ON COLUMN attempt.error IS 'The error''s one line; empty when there was none.';

CREATE TABLE experiment_run (
    experiment VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    labelled_utc TIMESTAMP NOT NULL,
    PRIMARY KEY (experiment, label, run_id)
);
COMMENT ON TABLE experiment_run IS 'Labels: which run plays which part in an experiment.';
COMMENT ON COLUMN experiment_run.experiment IS 'Name of the experiment.';
COMMENT ON COLUMN experiment_run.label IS 'The part the run plays, such as predict:full/test.';
COMMENT ON COLUMN experiment_run.run_id IS 'The run.';
COMMENT ON COLUMN experiment_run.labelled_utc IS 'When the label was given.';

CREATE TABLE sentence (
    sentence_id VARCHAR NOT NULL,
    tokens VARCHAR[] NOT NULL,
    text VARCHAR NOT NULL,
    PRIMARY KEY (sentence_id)
);
COMMENT ON TABLE sentence IS 'Every distinct sentence once, whatever corpus it stands in.';
COMMENT ON COLUMN sentence.sentence_id IS 'Content hash of the tokens.';
COMMENT ON COLUMN sentence.tokens IS 'The tokens.';
COMMENT ON COLUMN sentence.text IS 'The tokens joined by single spaces.';

CREATE TABLE corpus (
    run_id VARCHAR NOT NULL,
    domain VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    n_repaired_tags INTEGER NOT NULL,
    types VARCHAR[] NOT NULL,
    PRIMARY KEY (run_id)
);
COMMENT ON TABLE corpus IS 'One split of one domain as an import run brought it in.';
COMMENT ON COLUMN corpus.run_id IS 'The import run.';
COMMENT ON COLUMN corpus.domain IS 'Name of the domain (label set).';
COMMENT ON COLUMN corpus.split IS 'train, dev or test.';
COMMENT ON COLUMN corpus.role IS 'source or target.';
COMMENT ON COLUMN corpus.n_repaired_tags IS 'Orphan I- tags that were read as B-.';
COMMENT ON COLUMN corpus.types IS 'Labels in order of first appearance.';

CREATE TABLE corpus_sentence (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    sentence_id VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE corpus_sentence IS 'The sentences of a corpus in order.';
COMMENT ON COLUMN corpus_sentence.run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN corpus_sentence.position IS '0-based place in the corpus.';
COMMENT ON COLUMN corpus_sentence.sentence_id IS 'The sentence.';

CREATE TABLE gold_entity (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    start_token INTEGER NOT NULL,
    end_token INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    mention VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position, start_token)
);
COMMENT ON TABLE gold_entity IS 'Annotated entities.';
COMMENT ON COLUMN gold_entity.run_id IS 'The import run of the corpus.';
COMMENT ON COLUMN gold_entity.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN gold_entity.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN gold_entity.end_token IS 'Token after the last one.';
COMMENT ON COLUMN gold_entity.entity_type IS 'The gold type.';
COMMENT ON COLUMN gold_entity.mention IS 'The tokens covered, joined by single spaces.';

CREATE TABLE domain_type (
    run_id VARCHAR NOT NULL,
    domain VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    short VARCHAR NOT NULL,
    phrase VARCHAR NOT NULL,
    lemma VARCHAR NOT NULL,
    synset VARCHAR NOT NULL,
    definition VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE domain_type IS 'The label set a corpus was imported with, in declared order.';
COMMENT ON COLUMN domain_type.run_id IS 'The import run.';
COMMENT ON COLUMN domain_type.domain IS 'Name of the domain.';
COMMENT ON COLUMN domain_type.position IS '0-based place in the declared order.';
COMMENT ON COLUMN domain_type.entity_type IS 'The corpus label, verbatim.';
COMMENT ON COLUMN domain_type.short IS 'The label in prompts and maps, such as PER.';
COMMENT ON COLUMN domain_type.phrase IS 'The label as people write it.';
COMMENT ON COLUMN domain_type.lemma IS 'WordNet lemma; empty when there is none.';
COMMENT ON COLUMN domain_type.synset IS 'Pinned WordNet sense; empty when there is none.';
COMMENT ON COLUMN domain_type.definition IS 'Our own explanation, used in prompts.';

CREATE TABLE type_description (
    run_id VARCHAR NOT NULL,
    domain VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    gloss VARCHAR NOT NULL,
    gloss_source VARCHAR NOT NULL,
    description VARCHAR NOT NULL,
    request_id VARCHAR,
    origin VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE type_description IS 'Descriptions of entity types (equation 5).';
COMMENT ON COLUMN type_description.run_id IS 'The describe run.';
COMMENT ON COLUMN type_description.domain IS 'Name of the domain.';
COMMENT ON COLUMN type_description.position IS '0-based place in the declared order.';
COMMENT ON COLUMN type_description.entity_type IS 'The type described.';
COMMENT ON COLUMN type_description.gloss IS 'C_s, the dictionary''s gloss.';
COMMENT ON COLUMN type_description.gloss_source IS 'Where the gloss is from: a WordNet synset, or the domain''s own definition.';
COMMENT ON COLUMN type_description.description IS 'C_e, the enriched description that is embedded.';
COMMENT ON COLUMN type_description.request_id IS 'The LLM request that wrote it; NULL when no LLM did.';
COMMENT ON COLUMN type_description.origin IS 'Who wrote the description: llm, gloss or imported.';

CREATE TABLE type_embedding (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    vector DOUBLE[] NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE type_embedding IS 'H-bar, the embedded descriptions (equations 6 and 7).';
COMMENT ON COLUMN type_embedding.run_id IS 'The embed run.';
COMMENT ON COLUMN type_embedding.position IS '0-based row of the matrix.';
COMMENT ON COLUMN type_embedding.entity_type IS 'The type.';
COMMENT ON COLUMN type_embedding.vector IS 'Masked mean of the last hidden layer over the description.';

CREATE TABLE checkpoint (
    run_id VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    weights_sha256 VARCHAR NOT NULL,
    best_epoch INTEGER NOT NULL,
    PRIMARY KEY (run_id)
);
COMMENT ON TABLE checkpoint IS 'The weights a training run ended with; the files lie beside the store.';
COMMENT ON COLUMN checkpoint.run_id IS 'The training run.';
COMMENT ON COLUMN checkpoint.path IS 'Directory, relative to the store''s directory where it lies inside it.';
COMMENT ON COLUMN checkpoint.weights_sha256 IS 'SHA-256 of model.safetensors.';
COMMENT ON COLUMN checkpoint.best_epoch IS 'The epoch kept, 1-based; 0 when nothing was trained.';

CREATE TABLE train_log (
    run_id VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    train_loss DOUBLE NOT NULL,
    dev_loss DOUBLE,
    dev_metric DOUBLE,
    seconds DOUBLE NOT NULL,
    n_truncated_tokens BIGINT NOT NULL,
    PRIMARY KEY (run_id, epoch)
);
COMMENT ON TABLE train_log IS 'One row per epoch of training.';
COMMENT ON COLUMN train_log.run_id IS 'The training run.';
COMMENT ON COLUMN train_log.epoch IS '1-based.';
COMMENT ON COLUMN train_log.step IS 'Optimiser steps so far.';
COMMENT ON COLUMN train_log.train_loss IS 'Mean loss per target token over the epoch.';
COMMENT ON COLUMN train_log.dev_loss IS 'The same on dev; NULL when not measured.';
COMMENT ON COLUMN train_log.dev_metric IS 'The selection metric on dev; NULL when not measured.';
COMMENT ON COLUMN train_log.seconds IS 'Duration of the epoch.';
COMMENT ON COLUMN train_log.n_truncated_tokens IS 'Input and target tokens cut to fit the window.';

CREATE TABLE prediction_corpus (
    run_id VARCHAR NOT NULL,
    corpus_run_id VARCHAR NOT NULL,
    PRIMARY KEY (run_id)
);
COMMENT ON TABLE prediction_corpus IS 'Which corpus a prediction run has predicted.';
COMMENT ON COLUMN prediction_corpus.run_id IS 'The prediction run.';
COMMENT ON COLUMN prediction_corpus.corpus_run_id IS 'The import run of the corpus.';

CREATE TABLE prediction (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    generated VARCHAR NOT NULL,
    malformed JSON NOT NULL,
    n_input_tokens INTEGER NOT NULL,
    n_truncated_tokens INTEGER NOT NULL,
    n_output_tokens INTEGER NOT NULL,
    finish_reason VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE prediction IS 'What a model wrote for one sentence.';
COMMENT ON COLUMN prediction.run_id IS 'The prediction run.';
COMMENT ON COLUMN prediction.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN prediction.generated IS 'The text the entities were decoded from.';
COMMENT ON COLUMN prediction.malformed IS 'Kind of malformation to count; zeroes left out.';
COMMENT ON COLUMN prediction.n_input_tokens IS 'Tokens given to the model.';
COMMENT ON COLUMN prediction.n_truncated_tokens IS 'Input tokens cut to fit the window.';
COMMENT ON COLUMN prediction.n_output_tokens IS 'Tokens generated.';
COMMENT ON COLUMN prediction.finish_reason IS 'stop, or length when the output was cut.';

CREATE TABLE predicted_entity (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    start_token INTEGER NOT NULL,
    end_token INTEGER NOT NULL,
    entity_type VARCHAR NOT NULL,
    mention VARCHAR NOT NULL,
    PRIMARY KEY (run_id, position, start_token, end_token, entity_type)
);
COMMENT ON TABLE predicted_entity IS 'Entities decoded from the predictions.';
COMMENT ON COLUMN predicted_entity.run_id IS 'The prediction run.';
COMMENT ON COLUMN predicted_entity.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN predicted_entity.start_token IS 'First token, 0-based.';
COMMENT ON COLUMN predicted_entity.end_token IS 'Token after the last one.';
COMMENT ON COLUMN predicted_entity.entity_type IS 'The predicted type.';
COMMENT ON COLUMN predicted_entity.mention IS 'The tokens covered, joined by single spaces.';

CREATE TABLE hierarchy_ratio (
    run_id VARCHAR NOT NULL,
    gold_position INTEGER NOT NULL,
    gold_type VARCHAR NOT NULL,
    source_position INTEGER NOT NULL,
    source_type VARCHAR NOT NULL,
    ratio DOUBLE NOT NULL,
    n_gold INTEGER NOT NULL,
    n_predicted_as INTEGER NOT NULL,
    unrecognised DOUBLE NOT NULL,
    is_prefix BOOLEAN NOT NULL,
    is_flagged BOOLEAN NOT NULL,
    PRIMARY KEY (run_id, gold_position, source_position)
);
COMMENT ON TABLE hierarchy_ratio IS 'R_H (equation 2): how often gold entities of a target type are recognised as each source type, on target train.';
COMMENT ON COLUMN hierarchy_ratio.run_id IS 'The quantify run.';
COMMENT ON COLUMN hierarchy_ratio.gold_position IS '0-based row.';
COMMENT ON COLUMN hierarchy_ratio.gold_type IS 'The target type.';
COMMENT ON COLUMN hierarchy_ratio.source_position IS '0-based column.';
COMMENT ON COLUMN hierarchy_ratio.source_type IS 'The source type predicted for its span.';
COMMENT ON COLUMN hierarchy_ratio.ratio IS 'n_predicted_as / n_gold; 0 when n_gold is 0.';
COMMENT ON COLUMN hierarchy_ratio.n_gold IS 'Gold entities of the target type.';
COMMENT ON COLUMN hierarchy_ratio.n_predicted_as IS 'Those whose span was predicted as the source type.';
COMMENT ON COLUMN hierarchy_ratio.unrecognised IS 'Share of the gold entities whose span no entity was predicted for (same over the row).';
COMMENT ON COLUMN hierarchy_ratio.is_prefix IS 'Whether this source type is the target type''s prefix (equation 3).';
COMMENT ON COLUMN hierarchy_ratio.is_flagged IS 'Whether the row is all zero, so that the prefix is a default (same over the row).';

CREATE TABLE misclassification_ratio (
    run_id VARCHAR NOT NULL,
    gold_position INTEGER NOT NULL,
    gold_type VARCHAR NOT NULL,
    confused_position INTEGER NOT NULL,
    confused_type VARCHAR NOT NULL,
    ratio DOUBLE NOT NULL,
    n_gold INTEGER NOT NULL,
    n_predicted_as INTEGER NOT NULL,
    unrecognised DOUBLE NOT NULL,
    PRIMARY KEY (run_id, gold_position, confused_position)
);
COMMENT ON TABLE misclassification_ratio IS 'R_M (equation 11): how often gold entities of a target type are predicted as each target type, on target dev.';
COMMENT ON COLUMN misclassification_ratio.run_id IS 'The quantify run.';
COMMENT ON COLUMN misclassification_ratio.gold_position IS '0-based row.';
COMMENT ON COLUMN misclassification_ratio.gold_type IS 'The type that is.';
COMMENT ON COLUMN misclassification_ratio.confused_position IS '0-based column.';
COMMENT ON COLUMN misclassification_ratio.confused_type IS 'The type predicted for its span; equal to gold_type where right.';
COMMENT ON COLUMN misclassification_ratio.ratio IS 'n_predicted_as / n_gold; 0 when n_gold is 0.';
COMMENT ON COLUMN misclassification_ratio.n_gold IS 'Gold entities of the type.';
COMMENT ON COLUMN misclassification_ratio.n_predicted_as IS 'Those whose span was predicted as confused_type.';
COMMENT ON COLUMN misclassification_ratio.unrecognised IS 'Share of the gold entities whose span no entity was predicted for (same over the row).';

CREATE TABLE confusion (
    run_id VARCHAR NOT NULL,
    dimension VARCHAR NOT NULL,
    gold_position INTEGER NOT NULL,
    gold_type VARCHAR NOT NULL,
    confused_position INTEGER NOT NULL,
    confused_type VARCHAR NOT NULL,
    score DOUBLE,
    PRIMARY KEY (run_id, dimension, gold_position, confused_position)
);
COMMENT ON TABLE confusion IS 'Confusion of target types in every dimension (equations 4 to 13).';
COMMENT ON COLUMN confusion.run_id IS 'The quantify run.';
COMMENT ON COLUMN confusion.dimension IS 'u_hie, u_sim, u_iml, v_iml, R_M, v_exl or v_conf.';
COMMENT ON COLUMN confusion.gold_position IS '0-based row.';
COMMENT ON COLUMN confusion.gold_type IS 'The type that is.';
COMMENT ON COLUMN confusion.confused_position IS '0-based column.';
COMMENT ON COLUMN confusion.confused_type IS 'The type it is taken for.';
COMMENT ON COLUMN confusion.score IS 'The confusion; NULL on the diagonal, which has no meaning.';

CREATE TABLE rival (
    run_id VARCHAR NOT NULL,
    gold_position INTEGER NOT NULL,
    gold_type VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    rival VARCHAR,
    score DOUBLE,
    PRIMARY KEY (run_id, gold_position, rank)
);
COMMENT ON TABLE rival IS 'T_conf (equation 14): the types each type is warned against.';
COMMENT ON COLUMN rival.run_id IS 'The quantify run.';
COMMENT ON COLUMN rival.gold_position IS '0-based place of the type.';
COMMENT ON COLUMN rival.gold_type IS 'The type that is.';
COMMENT ON COLUMN rival.rank IS '1 = strongest rival; a type without a clear rival has one row of rank 0.';
COMMENT ON COLUMN rival.rival IS 'The type it is taken for; NULL at rank 0.';
COMMENT ON COLUMN rival.score IS 'v_conf of the pair; NULL at rank 0.';

CREATE TABLE template (
    template_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    PRIMARY KEY (template_id)
);
COMMENT ON TABLE template IS 'Prompt templates as they were when used.';
COMMENT ON COLUMN template.template_id IS 'Content hash of name and text.';
COMMENT ON COLUMN template.name IS 'Name and version, such as pbrc.v1.';
COMMENT ON COLUMN template.text IS 'The template''s text.';

CREATE TABLE request (
    request_id VARCHAR NOT NULL,
    backend_family VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    sampling JSON NOT NULL,
    response_schema VARCHAR,
    prompt_hash VARCHAR NOT NULL,
    PRIMARY KEY (request_id)
);
COMMENT ON TABLE request IS 'Every question put to an LLM, once.';
COMMENT ON COLUMN request.request_id IS 'Content hash of backend family, model, messages, sampling and schema.';
COMMENT ON COLUMN request.backend_family IS 'The kind of backend.';
COMMENT ON COLUMN request.model IS 'The model, with its revision where known.';
COMMENT ON COLUMN request.sampling IS 'Maximum tokens, temperature, top_p, seed and stop texts.';
COMMENT ON COLUMN request.response_schema IS 'JSON schema the answer must follow; NULL when none was asked for.';
COMMENT ON COLUMN request.prompt_hash IS 'Content hash of the messages alone: the same prompt to two models.';

CREATE TABLE request_message (
    request_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    role VARCHAR NOT NULL,
    text_id VARCHAR NOT NULL,
    PRIMARY KEY (request_id, position)
);
COMMENT ON TABLE request_message IS 'The messages of a request in order.';
COMMENT ON COLUMN request_message.request_id IS 'The request.';
COMMENT ON COLUMN request_message.position IS '0-based place.';
COMMENT ON COLUMN request_message.role IS 'system, user or assistant.';
COMMENT ON COLUMN request_message.text_id IS 'The message''s text, in prompt_text.';

CREATE TABLE prompt_text (
    text_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    PRIMARY KEY (text_id)
);
COMMENT ON TABLE prompt_text IS 'Texts of messages, each once: the long fixed part of a prompt is shared by all its sentences.';
COMMENT ON COLUMN prompt_text.text_id IS 'Content hash of the text.';
COMMENT ON COLUMN prompt_text.text IS 'The text.';

CREATE TABLE completion (
    request_id VARCHAR NOT NULL,
    attempt_n INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    finish_reason VARCHAR NOT NULL,
    n_input_tokens INTEGER NOT NULL,
    n_cached_tokens INTEGER NOT NULL,
    n_output_tokens INTEGER NOT NULL,
    created_utc TIMESTAMP NOT NULL,
    PRIMARY KEY (request_id, attempt_n)
);
COMMENT ON TABLE completion IS 'What an LLM answered. Data, not a cache: written as it arrives, never deleted; the latest answer counts.';
COMMENT ON COLUMN completion.request_id IS 'The request answered.';
COMMENT ON COLUMN completion.attempt_n IS '1 for the first answer to the request.';
COMMENT ON COLUMN completion.text IS 'The raw answer.';
COMMENT ON COLUMN completion.finish_reason IS 'stop, length, or what the backend says.';
COMMENT ON COLUMN completion.n_input_tokens IS 'Tokens of the prompt.';
COMMENT ON COLUMN completion.n_cached_tokens IS 'Those of them the server had cached.';
COMMENT ON COLUMN completion.n_output_tokens IS 'Tokens of the answer.';
COMMENT ON COLUMN completion.created_utc IS 'When it was stored.';

CREATE TABLE reasoning (
    run_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    request_id VARCHAR NOT NULL,
    initial VARCHAR NOT NULL,
    bidirectional VARCHAR NOT NULL,
    malformed JSON NOT NULL,
    gap_reason VARCHAR,
    PRIMARY KEY (run_id, position)
);
COMMENT ON TABLE reasoning IS 'The reasoning text of each sentence, or why there is none.';
COMMENT ON COLUMN reasoning.run_id IS 'The reason run.';
COMMENT ON COLUMN reasoning.position IS '0-based place of the sentence in the corpus.';
COMMENT ON COLUMN reasoning.request_id IS 'The request it comes from; the raw text is its completion.';
COMMENT ON COLUMN reasoning.initial IS 'Initial reasoning; empty when the setting leaves it out.';
COMMENT ON COLUMN reasoning.bidirectional IS 'Bidirectional reasoning.';
COMMENT ON COLUMN reasoning.malformed IS 'Kind of malformation to count; zeroes left out.';
COMMENT ON COLUMN reasoning.gap_reason IS 'Why the answer is missing; NULL when it is there.';

CREATE TABLE score (
    run_id VARCHAR NOT NULL,
    domain VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    metric_family VARCHAR NOT NULL,
    entity_type VARCHAR NOT NULL,
    n_gold INTEGER NOT NULL,
    n_predicted INTEGER NOT NULL,
    n_correct INTEGER NOT NULL,
    precision DOUBLE NOT NULL,
    recall DOUBLE NOT NULL,
    f1 DOUBLE NOT NULL,
    PRIMARY KEY (run_id, domain, split, metric_family, entity_type)
);
COMMENT ON TABLE score IS 'Precision, recall and F1, overall and per type.';
COMMENT ON COLUMN score.run_id IS 'The evaluate run.';
COMMENT ON COLUMN score.domain IS 'Name of the domain.';
COMMENT ON COLUMN score.split IS 'The split scored: always say which.';
COMMENT ON COLUMN score.metric_family IS 'strict (span and type), span (type ignored), mention_multiset or mention_set (surfaces per sentence and type).';
COMMENT ON COLUMN score.entity_type IS 'The gold type; * is the micro average, macro the unweighted mean over types.';
COMMENT ON COLUMN score.n_gold IS 'Gold entities (support).';
COMMENT ON COLUMN score.n_predicted IS 'Predicted entities.';
COMMENT ON COLUMN score.n_correct IS 'Predicted entities that are right.';
COMMENT ON COLUMN score.precision IS 'n_correct / n_predicted, between 0 and 1; 0 when nothing was predicted.';
COMMENT ON COLUMN score.recall IS 'n_correct / n_gold, between 0 and 1; 0 without support.';
COMMENT ON COLUMN score.f1 IS 'Harmonic mean of the two, between 0 and 1.';

CREATE TABLE error_count (
    run_id VARCHAR NOT NULL,
    domain VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    entity_type VARCHAR NOT NULL,
    n_gold INTEGER NOT NULL,
    n_missed INTEGER NOT NULL,
    n_boundary INTEGER NOT NULL,
    n_misclassified INTEGER NOT NULL,
    n_spurious INTEGER NOT NULL,
    PRIMARY KEY (run_id, domain, split, entity_type)
);
COMMENT ON TABLE error_count IS 'What became of the gold entities of each type, and predictions that touch none.';
COMMENT ON COLUMN error_count.run_id IS 'The evaluate run.';
COMMENT ON COLUMN error_count.domain IS 'Name of the domain.';
COMMENT ON COLUMN error_count.split IS 'The split scored.';
COMMENT ON COLUMN error_count.entity_type IS 'The gold type (for n_spurious the predicted one); * is all of them.';
COMMENT ON COLUMN error_count.n_gold IS 'Gold entities.';
COMMENT ON COLUMN error_count.n_missed IS 'Those without a predicted entity of their exact span, boundary errors included (figure 6).';
COMMENT ON COLUMN error_count.n_boundary IS 'Those of the missed that a predicted entity overlaps.';
COMMENT ON COLUMN error_count.n_misclassified IS 'Those whose exact span was predicted with another type.';
COMMENT ON COLUMN error_count.n_spurious IS 'Predicted entities that overlap no gold entity.';

CREATE TABLE published_score (
    source_table VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    setting VARCHAR NOT NULL,
    source_domain VARCHAR NOT NULL,
    target_domain VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    PRIMARY KEY (source_table, method, setting, source_domain, target_domain, backbone, metric)
);
COMMENT ON TABLE published_score IS 'Numbers of the paper and of others, as facts to compare with.';
COMMENT ON COLUMN published_score.source_table IS 'Where it is printed, such as table 1.';
COMMENT ON COLUMN published_score.method IS 'Name of the method.';
COMMENT ON COLUMN published_score.setting IS 'Setting or ablation; empty for the main one.';
COMMENT ON COLUMN published_score.source_domain IS 'Source domain.';
COMMENT ON COLUMN published_score.target_domain IS 'Target domain.';
COMMENT ON COLUMN published_score.backbone IS 'Backbone or LLM.';
COMMENT ON COLUMN published_score.metric IS 'What the number measures, as far as the publication says.';
COMMENT ON COLUMN published_score.value IS 'The number as printed, in its own unit.';
