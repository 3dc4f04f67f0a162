-- How many bytes the work takes that was saved from workspaces: NULL until it is measured, as what earlier versions saved.

ALTER TABLE workspaces ADD COLUMN saved_bytes INTEGER DEFAULT 0 CHECK (saved_bytes >= 0);
UPDATE workspaces SET saved_bytes = NULL WHERE EXISTS (
    SELECT 1 FROM events WHERE events.run_id = workspaces.run_id AND type = 'workspace_cleaned'
    AND CASE WHEN json_valid(data) THEN json_extract(data, '$.saved.folder') IS NOT NULL END
);
CREATE INDEX workspaces_by_saved_work ON workspaces (environment, saved_bytes) WHERE saved_bytes > 0;
CREATE INDEX workspaces_with_unmeasured_work ON workspaces (run_id) WHERE saved_bytes IS NULL;
