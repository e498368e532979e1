"""The Spark engine of `prepare`: the same SQL steps, run on a cluster."""
