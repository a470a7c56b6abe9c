"""Targets: where a replay hands its messages."""
