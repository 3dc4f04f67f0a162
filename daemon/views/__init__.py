"""The JSON documents that the control API and `--json` share."""
