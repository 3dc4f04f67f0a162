-- A workspace knows the commit that it began at; when its run ended, the run says.

ALTER TABLE workspaces ADD COLUMN base TEXT;
ALTER TABLE workspaces DROP COLUMN released_at;
