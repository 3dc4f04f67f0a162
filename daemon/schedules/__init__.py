"""Changes of schedules: by the config file, the control API and the command line."""
