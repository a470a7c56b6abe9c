"""The inboxes, which remember the handled events: in memory, SQLite, a SQL database, and Redis."""
