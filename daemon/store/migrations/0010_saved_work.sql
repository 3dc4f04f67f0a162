-- How much room the work takes that was saved from workspaces.

ALTER TABLE workspaces ADD COLUMN saved_bytes INTEGER NOT NULL DEFAULT 0 CHECK (saved_bytes >= 0);
UPDATE workspaces SET saved_bytes = coalesce((
    SELECT json_extract(data, '$.saved.bytes') FROM events
    WHERE events.run_id = workspaces.run_id AND type = 'workspace_cleaned' AND json_extract(data, '$.saved.folder') NOT NULL
    ORDER BY number DESC LIMIT 1
), 0) WHERE state = 'removed';
CREATE INDEX workspaces_by_saved_work ON workspaces (environment, saved_bytes) WHERE saved_bytes > 0;
