-- Who made an LLM call, how long it took and what it cost. NULL where a call was made before this version.

ALTER TABLE completion ADD COLUMN asked_by VARCHAR;
ALTER TABLE completion ADD COLUMN seconds DOUBLE;
ALTER TABLE completion ADD COLUMN cost_usd DOUBLE;
COMMENT ON COLUMN completion.asked_by IS 'The run that made the call; other runs that ask the same use its answer.';
COMMENT ON COLUMN completion.seconds IS 'From asking to the whole answer.';
COMMENT ON COLUMN completion.cost_usd IS 'US dollars by the price list of its day; NULL when no price is known.';
