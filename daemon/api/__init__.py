"""The control API: HTTP and JSON over a Unix socket and, where it is set, over TCP."""
