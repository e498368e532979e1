"""Tables in, training rows out: readers, time, splits, catalogue, statistics, quarantine."""
