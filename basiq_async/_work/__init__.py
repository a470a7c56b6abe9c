"""Tasks, time limits and claims: how a unit of work begins and ends. The protocol of inboxes and the keys of events."""
