"""What is public is documented by machine: every table, view and column has a comment, and the README shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdner.files import resource_root
from cdner.store import Store
from cdner.store.dictionary import render_dictionary


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "cdner.duckdb")
    with store.transaction():
        pass
    return store


def test_the_readme_is_the_rendered_dictionary(store):
    readme = (resource_root("store") / "README.md").read_text(encoding="utf-8")
    assert readme == render_dictionary(store), "run scripts/check --fix"


def test_every_table_view_and_column_has_a_comment(store):
    with store.reading() as connection:
        without = connection.execute(
            """
            SELECT table_name, '' FROM duckdb_tables() WHERE NOT internal AND coalesce(comment, '') = ''
            UNION ALL
            SELECT view_name, '' FROM duckdb_views() WHERE NOT internal AND coalesce(comment, '') = ''
            UNION ALL
            SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND coalesce(comment, '') = ''
            """
        ).fetchall()
        n_columns = connection.execute("SELECT count(*) FROM duckdb_columns() WHERE NOT internal").fetchone()
    assert without == []
    assert n_columns[0] > 200


def test_every_column_of_the_store_is_in_the_readme(store):
    text = render_dictionary(store)
    with store.reading() as connection:
        names = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    sections = dict(section.split("\n", 1) for section in text.split("\n### ")[1:])
    assert [(table, column) for table, column in names if f"| {column} |" not in sections[table]] == []
