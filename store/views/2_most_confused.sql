CREATE VIEW most_confused AS
SELECT run_id, domain, split, gold_type, predicted_type, n_confused, n_gold, n_confused / n_gold AS share,
       row_number() OVER (PARTITION BY run_id ORDER BY n_confused DESC, share DESC, gold_type, predicted_type)
         AS rank
FROM (  -- not from gold_outcome: what is missed and the sentences' texts are most of its work
    SELECT predicted.run_id, domain, split, gold.entity_type AS gold_type,
           predicted.entity_type AS predicted_type, count(*) AS n_confused
    FROM predicted_entity AS predicted
    JOIN prediction_corpus USING (run_id)
    JOIN corpus ON corpus.run_id = corpus_run_id
    JOIN gold_entity AS gold
      ON gold.run_id = corpus_run_id AND gold.position = predicted.position
     AND gold.start_token = predicted.start_token AND gold.end_token = predicted.end_token
    WHERE gold.entity_type <> predicted.entity_type
    GROUP BY ALL
)
JOIN (
    SELECT prediction.run_id, entity_type AS gold_type, count(*) AS n_gold
    FROM prediction
    JOIN prediction_corpus USING (run_id)
    JOIN gold_entity AS gold ON gold.run_id = corpus_run_id AND gold.position = prediction.position
    GROUP BY ALL
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
