"""Notifications: a transactional outbox and its sender."""
