"""Recovery after a crash, a loss of data or a restore."""
