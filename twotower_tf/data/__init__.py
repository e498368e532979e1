"""Tables of events, items and users: published data sets, a synthetic log, and what training reads."""
