"""The fake served over HTTP, with its control API, its page and its state file."""
