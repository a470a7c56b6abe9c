"""What all inboxes share: the protocol, the time limits of calls, and the keys of events."""
