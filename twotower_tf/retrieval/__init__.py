"""Retrieves items: user rows to recommended items, with filters, exclusions and blocklist."""
