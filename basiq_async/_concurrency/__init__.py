"""Tasks, deadlines and clocks, for the rest of the package."""
