"""The only door to DuckDB: what is computed goes in and comes out here, as the nouns of ``cdner.types``.

One module a group of tables, plain functions that take a ``Store``. Knows nothing of how results are made, of
models or of prompts, and prints nothing.
"""

from cdner.store.connection import Store

__all__ = ["Store"]
