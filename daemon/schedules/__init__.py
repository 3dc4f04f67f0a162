"""What people do to schedules: in the config file, over the control API and on the command line."""
