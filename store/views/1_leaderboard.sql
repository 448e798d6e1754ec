CREATE VIEW leaderboard AS
SELECT experiment, label, run_id, domain, split, metric_family,
       if(entity_type = '*', 'micro', 'macro') AS average, n_gold, precision, recall, f1
FROM experiment_run JOIN score USING (run_id)
WHERE entity_type IN ('*', 'macro');
COMMENT ON VIEW leaderboard IS 'Overall scores of the labelled runs of all experiments.';
COMMENT ON COLUMN leaderboard.experiment IS 'Name of the experiment.';
COMMENT ON COLUMN leaderboard.label IS 'The part the run plays in it.';
COMMENT ON COLUMN leaderboard.run_id IS 'The evaluate run.';
COMMENT ON COLUMN leaderboard.domain IS 'Name of the domain.';
COMMENT ON COLUMN leaderboard.split IS 'The split scored.';
COMMENT ON COLUMN leaderboard.metric_family IS 'strict, span, mention_multiset or mention_set.';
COMMENT ON COLUMN leaderboard.average IS 'micro or macro.';
COMMENT ON COLUMN leaderboard.n_gold IS 'Gold entities.';
COMMENT ON COLUMN leaderboard.precision IS 'Between 0 and 1.';
COMMENT ON COLUMN leaderboard.recall IS 'Between 0 and 1.';
COMMENT ON COLUMN leaderboard.f1 IS 'Between 0 and 1.';
