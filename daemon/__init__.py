"""agentcron: cron for AI agents."""
