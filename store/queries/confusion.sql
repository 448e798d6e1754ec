-- Every pair of types with all dimensions of its confusion side by side (MCQM), the most confused first.
-- $experiment text: only this experiment, or all cells of this matrix
-- $run text: only the quantify run whose id begins so
-- $gold text: only this gold type
-- $predicted text: only pairs confused with this type
-- $limit integer = 50: rows at most
SELECT gold_type, confused_type, v_conf, u_hie, u_sim, u_iml, v_iml, r_m, v_exl, rival_rank, run_id
FROM confusion_wide
WHERE ($run IS NULL OR starts_with(run_id, $run))
  AND ($experiment IS NULL OR run_id IN (
      SELECT run_id FROM labelled_run WHERE $experiment IN (experiment, matrix)))
  AND ($gold IS NULL OR gold_type = $gold) AND ($predicted IS NULL OR confused_type = $predicted)
ORDER BY v_conf DESC NULLS LAST, gold_type, confused_type, run_id
LIMIT $limit
