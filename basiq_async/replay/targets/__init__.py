"""Targets, to which a replay hands its messages."""
