"""Keeps credentials and foreign text out of errors, logs and terminals."""
