CREATE VIEW confusion_wide AS
SELECT confusion.run_id, confusion.gold_type, confused_type,
       max(confusion.score) FILTER (dimension = 'u_hie') AS u_hie,
       max(confusion.score) FILTER (dimension = 'u_sim') AS u_sim,
       max(confusion.score) FILTER (dimension = 'u_iml') AS u_iml,
       max(confusion.score) FILTER (dimension = 'v_iml') AS v_iml,
       any_value(ratio) AS r_m,
       max(confusion.score) FILTER (dimension = 'v_exl') AS v_exl,
       max(confusion.score) FILTER (dimension = 'v_conf') AS v_conf,
       any_value(rank) AS rival_rank
FROM confusion
LEFT JOIN misclassification_ratio USING (run_id, gold_type, confused_type)
LEFT JOIN rival
  ON rival.run_id = confusion.run_id AND rival.gold_type = confusion.gold_type AND rival.rival = confused_type
WHERE confusion.gold_position <> confusion.confused_position
GROUP BY ALL;
COMMENT ON VIEW confusion_wide IS 'Every ordered pair of types with all dimensions side by side.';
COMMENT ON COLUMN confusion_wide.run_id IS 'The quantify run.';
COMMENT ON COLUMN confusion_wide.gold_type IS 'The type that is.';
COMMENT ON COLUMN confusion_wide.confused_type IS 'The type it is taken for.';
COMMENT ON COLUMN confusion_wide.u_hie IS 'Hierarchy (equation 4).';
COMMENT ON COLUMN confusion_wide.u_sim IS 'Semantic similarity (equation 8).';
COMMENT ON COLUMN confusion_wide.u_iml IS 'Implicit confusion (equation 9).';
COMMENT ON COLUMN confusion_wide.v_iml IS 'Its softmax over the row (equation 10).';
COMMENT ON COLUMN confusion_wide.r_m IS 'R_M, the empirical ratio on dev (equation 11).';
COMMENT ON COLUMN confusion_wide.v_exl IS 'Explicit confusion, the softmax of it (equation 12).';
COMMENT ON COLUMN confusion_wide.v_conf IS 'Both together (equation 13).';
COMMENT ON COLUMN confusion_wide.rival_rank IS '1 = strongest rival of gold_type (equation 14); NULL when none.';
