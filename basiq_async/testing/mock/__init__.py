"""The fake over HTTP: deliveries, the control API, the page, the state file."""
