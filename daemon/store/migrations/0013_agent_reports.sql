-- What an agent's own words told of its run: the kind of its failure, the session that can be continued, whether its
-- usage is complete (NULL: unknown), and how many permissions it was denied.

ALTER TABLE runs ADD COLUMN failure_kind TEXT CHECK (
    failure_kind IN ('auth', 'quota', 'overloaded', 'config', 'refused', 'denied', 'timeout', 'crashed', 'failed')
);
ALTER TABLE runs ADD COLUMN session TEXT CHECK (length(session) BETWEEN 1 AND 200);
ALTER TABLE runs ADD COLUMN usage_state TEXT CHECK (usage_state IN ('exact', 'at_least'));
ALTER TABLE runs ADD COLUMN denials INTEGER NOT NULL DEFAULT 0 CHECK (denials >= 0);
UPDATE runs SET usage_state = 'exact'
WHERE input_tokens IS NOT NULL OR output_tokens IS NOT NULL OR cost_usd IS NOT NULL;
