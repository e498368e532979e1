"""Profiles a user's own tables, proposes a configuration, and validates inputs: `init` and `validate`."""
