"""What an inbox is: its protocol, the keys of events, and which keys a webhook has."""
