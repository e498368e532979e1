"""Prepares events: catalogue, users, training rows, splits, histories, statistics."""
