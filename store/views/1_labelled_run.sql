CREATE VIEW labelled_run AS
SELECT experiment,
       regexp_replace(experiment, '\[.*\]$', '') AS matrix,
       regexp_replace(regexp_replace(experiment, '([\[,])seed=[^,\]]*,?', '\1'), '\[\]$|,(\])$', '\1') AS cell,
       nullif(regexp_extract(experiment, '[\[,]seed=([^,\]]*)', 1), '') AS seed,
       label,
       regexp_extract(label, '^[a-z]+') AS step,
       nullif(regexp_extract(label, '^(?:train|reason|extract|judge|predict|fuse|evaluate):([a-z_]+)', 1), '') AS setting,
       nullif(regexp_extract(label, '/([a-z]+)$', 1), '') AS split,
       run_id
FROM experiment_run
QUALIFY row_number() OVER (PARTITION BY experiment, label ORDER BY labelled_utc DESC, run_id DESC) = 1;
COMMENT ON VIEW labelled_run IS 'Which run plays which part in which experiment, with the parts of both names told apart; the latest where settings have changed since.';
COMMENT ON COLUMN labelled_run.experiment IS 'Name of the experiment, such as table2@cpu[target=ai,seed=0].';
COMMENT ON COLUMN labelled_run.matrix IS 'Name of the file it is a cell of: the same without the brackets.';
COMMENT ON COLUMN labelled_run.cell IS 'The same without the seed alone: experiments with equal cells are seeds of each other.';
COMMENT ON COLUMN labelled_run.seed IS 'The seed in its name; NULL without one.';
COMMENT ON COLUMN labelled_run.label IS 'The part the run plays, such as predict:full/test.';
COMMENT ON COLUMN labelled_run.step IS 'Kind of step.';
COMMENT ON COLUMN labelled_run.setting IS 'The setting (full, without_all, llm_only ...); source and evidence are the models MCQM looks at; NULL for steps all settings share.';
COMMENT ON COLUMN labelled_run.split IS 'The split read; NULL where the step reads several or none.';
COMMENT ON COLUMN labelled_run.run_id IS 'The run.';
