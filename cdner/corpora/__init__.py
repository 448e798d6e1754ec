"""Labelled sentences from files: one reader a file, all returning ``cdner.types.Corpus``.

Knows nothing of stores, models or prompts.
"""
