"""Inboxes: their protocol, the limits of their calls, and the keys of events."""
