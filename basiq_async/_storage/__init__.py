"""Storage: SQLite files, SQL databases, and private files, which only their owner can read."""
