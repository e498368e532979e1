"""The Spark engine of `prepare`: the same SQL steps, spread over a cluster."""
