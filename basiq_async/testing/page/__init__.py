"""The page of a served fake, at ``/_fake/``: what the control API returns, to look at and to drive."""
