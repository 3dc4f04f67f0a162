"""Recovery after a crash, a lost database or a restore."""
