"""What `agentcron doctor` looks at: one file for each part of a working installation."""
