"""Inboxes: they remember what has been handled."""
