CREATE VIEW published_comparison AS
WITH trained AS (
    SELECT lineage.run_id, depth, corpus.role, corpus.domain,
           settings ->> '$.backbone.model' AS backbone,  -- n_train is a number, or says how sentences were drawn
           coalesce(TRY_CAST(settings ->> '$.n_train' AS INTEGER), CAST(settings ->> '$.n_train.n' AS INTEGER)) AS n_train,
           (settings ->> '$.n_train.shots') || ' shots (' || (settings ->> '$.n_train.unit') || ')' AS shots
    FROM lineage
    JOIN run ON run.run_id = ancestor_run_id AND run.step = 'train'
    JOIN run_input ON run_input.run_id = ancestor_run_id
    JOIN corpus ON corpus.run_id = input_run_id AND corpus.split = 'train'
    WHERE lineage.step = 'evaluate'
),
written AS (
    SELECT lineage.run_id, any_value(settings ->> '$.llm.model') AS llm
    FROM lineage JOIN run ON run.run_id = ancestor_run_id AND run.step IN ('reason', 'extract', 'judge')
    GROUP BY lineage.run_id
),
predicted AS (
    SELECT lineage.run_id, CAST(settings ->> '$.n' AS INTEGER) AS n
    FROM lineage JOIN run ON run.run_id = ancestor_run_id AND run.step IN ('predict', 'extract', 'fuse')
    WHERE depth = 1
),
made AS (
    SELECT run_id,
           arg_min(backbone, depth) FILTER (role = 'target') AS backbone,
           arg_min(n_train, depth) FILTER (role = 'target') AS n_target_train,
           arg_min(shots, depth) FILTER (role = 'target') AS our_shots,
           arg_min(domain, depth) FILTER (role = 'source') AS source_domain,
           arg_min(n_train, depth) FILTER (role = 'source') AS n_source_train
    FROM trained GROUP BY run_id
),
ours AS (
    SELECT leaderboard.*, regexp_extract(label, 'evaluate:([a-z_]+)', 1) AS setting,
           coalesce(made.source_domain, '') AS source_domain,
           if(setting = 'llm_only', '', coalesce(backbone, '')) AS backbone,  -- its model measured confusion, no more
           coalesce(llm, '') AS llm, n_source_train, n_target_train, our_shots, predicted.n AS n_scored
    FROM leaderboard
    LEFT JOIN made USING (run_id)
    LEFT JOIN written USING (run_id)
    LEFT JOIN predicted USING (run_id)
    WHERE average = 'micro'
),
paired AS (
    SELECT ours.*, theirs.* RENAME (
               setting AS published_setting, source_domain AS published_source_domain,
               backbone AS published_backbone, llm AS published_llm, split AS published_split,
               value AS published_f1
           ),
           list_filter([
               CASE WHEN scorer = 'unknown' THEN 'their scorer is not stated'
                    WHEN scorer <> metric_family THEN 'different scorer: theirs ' || scorer || ', ours ' || metric_family END,
               CASE WHEN theirs.split = 'unknown' THEN 'their split is not stated'
                    WHEN theirs.split <> ours.split THEN 'different split: theirs ' || theirs.split || ', ours ' || ours.split END,
               CASE WHEN ours.setting = 'llm_only' AND theirs.backbone = '' THEN NULL
                    WHEN theirs.backbone = '' THEN 'their backbone is not stated'
                    WHEN theirs.backbone <> ours.backbone
                    THEN 'different backbone: theirs ' || theirs.backbone || ', ours ' || if(ours.backbone <> '', ours.backbone, if(ours.setting = 'llm_only', 'none', 'not known')) END,
               CASE WHEN theirs.llm <> ours.llm
                    THEN 'different LLM: theirs ' || if(theirs.llm = '', 'none or not stated', theirs.llm)
                         || ', ours ' || if(ours.llm = '', 'none', ours.llm) END,
               CASE WHEN theirs.source_domain <> ours.source_domain
                    THEN 'different source domain: theirs ' || if(theirs.source_domain = '', 'none', theirs.source_domain)
                         || ', ours ' || if(ours.source_domain = '', 'none', ours.source_domain) END,
               CASE WHEN n_source_train > 0 THEN 'ours saw only ' || n_source_train || ' source sentences' END,
               CASE WHEN n_target_train > 0 THEN 'ours saw only ' || n_target_train || ' target sentences' END,
               CASE WHEN our_shots IS NOT NULL THEN 'ours saw ' || our_shots || ', theirs shots ' || shots
                    WHEN shots <> 'all' THEN 'theirs has other training sentences: shots ' || shots END,
               CASE WHEN n_scored > 0 THEN 'ours scores only ' || n_scored || ' sentences' END,
               CASE WHEN n_seeds IS NULL THEN 'how many seeds theirs has is not stated, ours is one run'
                    WHEN n_seeds > 1 THEN 'theirs is a mean over ' || n_seeds || ' seeds, ours is one run' END
           ], lambda reason: reason IS NOT NULL) AS reasons
    FROM ours
    JOIN published_score AS theirs
      ON theirs.target_domain = ours.domain AND theirs.entity_type = '*'
     AND theirs.metric = if(metric_family = 'span', 'span_f1', 'f1')
     AND (theirs.method <> 'this paper' OR theirs.setting = ours.setting)
)
SELECT experiment, label, run_id, setting, source_domain, domain AS target_domain, split, metric_family, backbone, llm,
       100 * f1 AS f1, publication, source_table, method, year, published_setting, published_source_domain, shots,
       published_split, scorer, published_backbone, published_llm, published_f1,
       len(reasons) = 0 AS comparable,
       array_to_string(reasons, '; ') AS why_not,
       CASE WHEN len(reasons) = 0 THEN 100 * f1 - published_f1 END AS difference,
       remark, reference
FROM paired;
COMMENT ON VIEW published_comparison IS 'Our overall F1 beside every published one of the same target domain, with all that forbids comparing them. A difference is given only where nothing does.';
COMMENT ON COLUMN published_comparison.experiment IS 'Our experiment.';
COMMENT ON COLUMN published_comparison.label IS 'The part our run plays in it.';
COMMENT ON COLUMN published_comparison.run_id IS 'Our evaluate run.';
COMMENT ON COLUMN published_comparison.setting IS 'Our setting. The paper''s own rows stand only beside the same setting, other methods'' beside all.';
COMMENT ON COLUMN published_comparison.source_domain IS 'Our source domain; empty without one.';
COMMENT ON COLUMN published_comparison.target_domain IS 'The target domain of both.';
COMMENT ON COLUMN published_comparison.split IS 'The split we score.';
COMMENT ON COLUMN published_comparison.metric_family IS 'Our scorer: strict, mention_multiset, mention_set; span stands beside published span F1.';
COMMENT ON COLUMN published_comparison.backbone IS 'Our backbone; empty when the store does not know it.';
COMMENT ON COLUMN published_comparison.llm IS 'The LLM of our reasoning; empty without one.';
COMMENT ON COLUMN published_comparison.f1 IS 'Our micro F1, in percent.';
COMMENT ON COLUMN published_comparison.publication IS 'Where their number was read.';
COMMENT ON COLUMN published_comparison.source_table IS 'Its table or file.';
COMMENT ON COLUMN published_comparison.method IS 'Their method.';
COMMENT ON COLUMN published_comparison.year IS 'Its year; NULL when not stated.';
COMMENT ON COLUMN published_comparison.published_setting IS 'Their setting.';
COMMENT ON COLUMN published_comparison.published_source_domain IS 'Their source domain; empty without one.';
COMMENT ON COLUMN published_comparison.shots IS 'Their training sentences: all, zero, 20, 50.';
COMMENT ON COLUMN published_comparison.published_split IS 'The split they score.';
COMMENT ON COLUMN published_comparison.scorer IS 'Their scorer.';
COMMENT ON COLUMN published_comparison.published_backbone IS 'Their backbone; empty when not stated.';
COMMENT ON COLUMN published_comparison.published_llm IS 'Their LLM.';
COMMENT ON COLUMN published_comparison.published_f1 IS 'Their F1 as printed, in percent.';
COMMENT ON COLUMN published_comparison.comparable IS 'Whether nothing known forbids the comparison.';
COMMENT ON COLUMN published_comparison.why_not IS 'All that forbids it, with what each side has; empty when comparable.';
COMMENT ON COLUMN published_comparison.difference IS 'f1 - published_f1 where comparable, else NULL.';
COMMENT ON COLUMN published_comparison.remark IS 'A doubt about their number; mostly empty.';
COMMENT ON COLUMN published_comparison.reference IS 'Where to find the publication.';
