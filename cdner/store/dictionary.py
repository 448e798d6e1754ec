"""The data dictionary ``store/README.md``, written from the comments in the store itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdner.store.connection import Store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_INTRODUCTION = """\
# The store

Everything cdner computes lies in one DuckDB file, `cdner.duckdb`; model weights lie beside it, in
`checkpoints/`. This page is generated from the comments in the store (`scripts/check --fix`).

- `migrations/*.sql` make the tables, `views/*.sql` the views. Query the views: they are the stable interface.
- A **run** is what was asked (step, settings, inputs), named by the hash of exactly that; an **attempt** is
  one execution of it. Asking the same again finds the run; `--force` executes it anew and deletes its outputs
  **when it begins**: should it then fail, the old ones are gone.
- LLM completions belong to no run: all runs that ask the same share them, and nothing deletes them.
- Entities cover tokens `[start_token, end_token)`, counted from 0. Type `*` stands for all types together.
- Times are UTC. There are no foreign keys, and no primary keys of requests, their messages and texts, and completions:
  `cdner store verify` checks references, hashes, and that none of these is there twice.
- `cdner sql "SELECT * FROM leaderboard"` reads the store while other commands run.
- `queries/*.sql` are the questions that have a name: `cdner sql --list`, `cdner sql @most_confused --domain politics`.
"""


def render_dictionary(store: Store) -> str:
    """Markdown: an introduction, then every view and table with its columns and their comments."""
    with store.reading() as connection:
        views = connection.execute(
            "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_name"
        ).fetchall()
        tables = connection.execute(
            "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal ORDER BY table_oid"
        ).fetchall()
        columns = _columns_by_table(connection)
    parts = [_INTRODUCTION]
    for title, entries in (("Views", views), ("Tables", tables)):
        parts.append(f"## {title}\n")
        parts += [_section(name, comment, columns[name]) for name, comment in entries]
    return "\n".join(parts)


def _columns_by_table(connection: DuckDBPyConnection) -> dict[str, list[tuple[str, str, str]]]:
    rows = connection.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
        " ORDER BY table_name, column_index"
    ).fetchall()
    found: dict[str, list[tuple[str, str, str]]] = {}
    for table, *column in rows:
        found.setdefault(table, []).append((column[0], column[1], column[2]))
    return found


def _section(name: str, comment: str, columns: list[tuple[str, str, str]]) -> str:
    lines = [f"### {name}\n", f"{comment}\n", "| column | type | meaning |", "|---|---|---|"]
    lines += [f"| {column} | {kind} | {_cell(meaning)} |" for column, kind, meaning in columns]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A pipe would end the table's cell."""
    return text.replace("|", "\\|")
