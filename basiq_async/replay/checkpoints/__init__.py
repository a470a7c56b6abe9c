"""Checkpoints, which record the progress of a replay: in memory, a SQLite file, or a SQL database."""
