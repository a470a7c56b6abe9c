"""The fake Basiq: its state, operations, deliveries, faults and clock.

It shares no codec and no models with the client, so a bug in the client cannot hide in both."""
