"""Profiles a user's tables, proposes a configuration, and validates inputs: `init` and `validate`."""
