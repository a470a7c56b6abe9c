"""A page that shows a replay: how far it is, how fast, and what could not be handled."""
