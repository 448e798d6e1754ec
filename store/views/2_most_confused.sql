CREATE VIEW most_confused AS
SELECT run_id, domain, split, gold_type, predicted_type, n_confused, n_gold, n_confused / n_gold AS share,
       row_number() OVER (PARTITION BY run_id ORDER BY n_confused DESC, share DESC, gold_type, predicted_type)
         AS rank
FROM (
    SELECT run_id, domain, split, gold_type, predicted_type, count(*) AS n_confused
    FROM gold_outcome
    WHERE outcome = 'misclassified'
    GROUP BY run_id, domain, split, gold_type, predicted_type
)
JOIN (
    SELECT run_id, gold_type, count(*) AS n_gold FROM gold_outcome GROUP BY run_id, gold_type
) USING (run_id, gold_type);
COMMENT ON VIEW most_confused IS 'Which type was taken for which by every prediction run, as counts and shares of the gold type.';
COMMENT ON COLUMN most_confused.run_id IS 'The prediction run.';
COMMENT ON COLUMN most_confused.domain IS 'Name of the domain.';
COMMENT ON COLUMN most_confused.split IS 'train, dev or test.';
COMMENT ON COLUMN most_confused.gold_type IS 'The type that is.';
COMMENT ON COLUMN most_confused.predicted_type IS 'The type it was taken for.';
COMMENT ON COLUMN most_confused.n_confused IS 'Gold entities whose exact span was predicted with that type.';
COMMENT ON COLUMN most_confused.n_gold IS 'Gold entities of the type.';
COMMENT ON COLUMN most_confused.share IS 'n_confused / n_gold.';
COMMENT ON COLUMN most_confused.rank IS '1 = the run''s most frequent confusion by count, ties by share and then by name.';
