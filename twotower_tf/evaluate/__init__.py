"""How good a model is: exact ranking of the whole catalogue, baselines through the same code, a report to look at."""
