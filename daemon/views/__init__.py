"""JSON bodies shared by `--json` and the control API."""
