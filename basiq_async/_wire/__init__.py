"""Data on the wire: JSON to models, urls, cursors, pages and their order. Pure."""
