"""What the pages, the mock and the control API share: bodies, responses, the guard, the page."""
