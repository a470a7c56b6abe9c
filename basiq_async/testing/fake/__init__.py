"""A simulated Basiq: its state, operations, deliveries, faults and clock.

It shares neither codec nor models with the client."""
