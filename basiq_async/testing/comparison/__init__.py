"""The real API held against the fake, request by request: shapes, not values."""
