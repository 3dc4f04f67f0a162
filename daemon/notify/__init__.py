"""Notifications: a transactional outbox, and the sender that empties it."""
