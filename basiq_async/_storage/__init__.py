"""Storage: SQLite files, SQL databases, and files that their owner alone can read."""
