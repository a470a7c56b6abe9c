"""The common parts of the local servers: start and end, bodies, responses, access checks, the page."""
