"""Routes of the control API, one file per resource."""
