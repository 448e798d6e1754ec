CREATE VIEW error_proportion AS
SELECT run_id, domain, split, entity_type, n_gold,
       n_missed / nullif(n_gold, 0) AS missed,
       n_boundary / nullif(n_gold, 0) AS boundary,
       n_misclassified / nullif(n_gold, 0) AS misclassified,
       (n_missed + n_misclassified) / nullif(n_gold, 0) AS total,
       n_spurious
FROM error_count;
COMMENT ON VIEW error_proportion IS 'The error counts as proportions of the gold entities (figure 6).';
COMMENT ON COLUMN error_proportion.run_id IS 'The evaluate run.';
COMMENT ON COLUMN error_proportion.domain IS 'Name of the domain.';
COMMENT ON COLUMN error_proportion.split IS 'The split scored.';
COMMENT ON COLUMN error_proportion.entity_type IS 'The gold type; * is all of them.';
COMMENT ON COLUMN error_proportion.n_gold IS 'Gold entities.';
COMMENT ON COLUMN error_proportion.missed IS 'Share without a predicted entity of their exact span, boundary errors included; NULL without gold entities, as are the next three.';
COMMENT ON COLUMN error_proportion.boundary IS 'Share of gold entities missed while a predicted entity overlaps; the rest of missed was not found at all.';
COMMENT ON COLUMN error_proportion.misclassified IS 'Type-classification error proportion: share with exact span and wrong type.';
COMMENT ON COLUMN error_proportion.total IS 'Total error proportion: missed and misclassified.';
COMMENT ON COLUMN error_proportion.n_spurious IS 'Predicted entities that overlap no gold entity.';
