"""What local servers share: start and end, bodies, responses, the guard, the page."""
