"""Save the work that exists only in a workspace, before the workspace is removed."""
