"""The services: one file for each kind of resource."""
