"""Keep credentials and unsafe text out of errors, logs and terminals."""
