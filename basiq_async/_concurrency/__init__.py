"""Tasks, deadlines and clocks: what the rest of the package waits with."""
