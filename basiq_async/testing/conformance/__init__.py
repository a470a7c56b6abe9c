"""Conformance suites for your own transports and inboxes."""
