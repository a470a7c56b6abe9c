"""Our own files: SQLite, and files that their owner alone can read."""
