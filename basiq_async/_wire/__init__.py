"""What goes over the wire, and what it means: JSON to models, statuses to errors, urls, cursors. Pure."""
