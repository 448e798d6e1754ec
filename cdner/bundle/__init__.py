"""Bundles: what an LLM wrote, packed into one file for machines without that LLM."""
