"""The daemon's life cycle: wiring, startup, reload, watchdog and shutdown."""
