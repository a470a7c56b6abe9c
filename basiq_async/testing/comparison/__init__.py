"""Compare the real API with the fake, request by request. Only shapes of responses are compared, no values."""
