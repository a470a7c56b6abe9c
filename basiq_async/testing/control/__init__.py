"""The control API of a served fake: what a test arranges and sees in Python, over HTTP, for any language."""
