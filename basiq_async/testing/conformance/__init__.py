"""Conformance suites for your own transports, inboxes and checkpoints."""
