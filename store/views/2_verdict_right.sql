CREATE VIEW verdict_right AS
SELECT run_id, domain, split, gold_type, count(*) AS n_mentions,
       count(*) FILTER (backbone_type = gold_type AND llm_type = gold_type) AS n_both,
       count(*) FILTER (backbone_type = gold_type AND llm_type <> gold_type) AS n_backbone_only,
       count(*) FILTER (backbone_type <> gold_type AND llm_type = gold_type) AS n_llm_only,
       count(*) FILTER (backbone_type <> gold_type AND llm_type <> gold_type) AS n_neither
FROM judged_entity
WHERE gold_type IS NOT NULL AND llm_type IS NOT NULL
GROUP BY ALL;
COMMENT ON VIEW verdict_right IS 'Who is right about the type of judged mentions whose span is right: the backbone, the LLM, both or neither, per gold type.';
COMMENT ON COLUMN verdict_right.run_id IS 'The judge run.';
COMMENT ON COLUMN verdict_right.domain IS 'Name of the domain.';
COMMENT ON COLUMN verdict_right.split IS 'train, dev or test.';
COMMENT ON COLUMN verdict_right.gold_type IS 'The type that is right.';
COMMENT ON COLUMN verdict_right.n_mentions IS 'Mentions of this type with a verdict.';
COMMENT ON COLUMN verdict_right.n_both IS 'Those that both give the right type.';
COMMENT ON COLUMN verdict_right.n_backbone_only IS 'Those that only the backbone gives the right type.';
COMMENT ON COLUMN verdict_right.n_llm_only IS 'Those that only the LLM gives the right type.';
COMMENT ON COLUMN verdict_right.n_neither IS 'Those that neither gives the right type.';
