-- Published numbers with all that decides whether they can be compared. The table was always empty: nothing filled it.

DROP TABLE published_score;
CREATE TABLE published_score (
    publication VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    year INTEGER,
    setting VARCHAR NOT NULL,
    source_domain VARCHAR NOT NULL,
    target_domain VARCHAR NOT NULL,
    entity_type VARCHAR NOT NULL,
    shots VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL,
    llm VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    scorer VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    n_seeds INTEGER,
    value DOUBLE NOT NULL,
    reference VARCHAR NOT NULL,
    remark VARCHAR NOT NULL,
    PRIMARY KEY (publication, source_table, method, setting, source_domain, target_domain, entity_type, shots, backbone, metric)
);
COMMENT ON TABLE published_score IS 'Numbers of the paper and of others, as facts to compare with; remade from store/published/*.toml when those change.';
COMMENT ON COLUMN published_score.publication IS 'Where the number was read. It may cite another method''s authors.';
COMMENT ON COLUMN published_score.source_table IS 'Its table or file.';
COMMENT ON COLUMN published_score.method IS 'Name of the method; "this paper" is the publication''s own.';
COMMENT ON COLUMN published_score.year IS 'Year of the method as the publication gives it; NULL when it does not.';
COMMENT ON COLUMN published_score.setting IS 'For the paper''s own method the setting by our name (full, without_all ...), else empty or zero-shot.';
COMMENT ON COLUMN published_score.source_domain IS 'Source domain; empty without one.';
COMMENT ON COLUMN published_score.target_domain IS 'Target domain; average is the printed mean over the five.';
COMMENT ON COLUMN published_score.entity_type IS 'The type scored; * is all of them.';
COMMENT ON COLUMN published_score.shots IS 'all (the whole training set), zero, 20, 50, or as the publication says.';
COMMENT ON COLUMN published_score.backbone IS 'Backbone; empty when not stated.';
COMMENT ON COLUMN published_score.llm IS 'LLM beside the backbone; empty without one, or when not stated.';
COMMENT ON COLUMN published_score.metric IS 'precision, recall or f1, or one of the three with span_ before it: spans without types.';
COMMENT ON COLUMN published_score.scorer IS 'How it was counted, by the names of score.metric_family where it is one of them; token; or unknown.';
COMMENT ON COLUMN published_score.split IS 'The split scored; unknown when not stated.';
COMMENT ON COLUMN published_score.n_seeds IS 'Runs the number is a mean of; NULL when not stated.';
COMMENT ON COLUMN published_score.value IS 'The number as printed, in percent.';
COMMENT ON COLUMN published_score.reference IS 'Where to find the publication.';
COMMENT ON COLUMN published_score.remark IS 'A doubt, or what else must be known; mostly empty.';

CREATE TABLE published_file (
    name VARCHAR NOT NULL,
    text_hash VARCHAR NOT NULL,
    PRIMARY KEY (name)
);
COMMENT ON TABLE published_file IS 'The files published_score was made from.';
COMMENT ON COLUMN published_file.name IS 'Name of the file in store/published.';
COMMENT ON COLUMN published_file.text_hash IS 'Content hash of its text; when it differs, the table is remade.';
