"""Checkpoints: they record where a replay stands."""
