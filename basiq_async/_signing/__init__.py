"""Signatures, secrets and headers of a delivery."""
