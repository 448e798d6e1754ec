"""Comparing two settings: differences with intervals, and the predictions that changed."""
