"""Signing secrets, and the signatures of deliveries and of stored data."""
