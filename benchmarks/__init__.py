"""Plain programs, one for each question. See benchmarks/README.md."""
