"""The data dictionary ``store/README.md``, written from the comments in the store itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdner.store.connection import Store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_INTRODUCTION = """\
# The store

Everything that cdner computes is stored in one DuckDB file, `cdner.duckdb`; model weights are stored beside it, in
`checkpoints/`. This page is generated from the comments in the store (`scripts/check --fix`).

- `migrations/*.sql` create the tables, `views/*.sql` the views. Query the views: they are the stable interface.
- A **run** is a step with its settings and inputs. Its id is the hash of exactly these. An **attempt** is one execution
  of a run. The same settings find the same run; `--force` executes it again and deletes its outputs **when it begins**:
  if the new attempt fails, the old outputs are gone.
- LLM completions belong to no run: all runs with the same request share them, and nothing deletes them.
- Entities cover tokens `[start_token, end_token)`, counted from 0. Type `*` stands for all types together.
- Times are UTC.
- There are no foreign keys. Requests, their messages and texts, and completions have no primary keys.
  `cdner store verify` checks references and hashes, and that none of these rows is stored twice.
- `cdner sql "SELECT * FROM leaderboard"` reads the store while other commands run. `cdner sql` limits its memory and
  time through POSIX process limits.
- `queries/*.sql` are the named queries: `cdner sql --list`, `cdner sql @most_confused --domain politics`.

## Bundles and hashes

A bundle lets another machine repeat an experiment without the LLM:

```bash
.venv/bin/cdner bundle pack quickstart.zip --experiment quickstart --force
.venv/bin/cdner bundle verify quickstart.zip
.venv/bin/cdner bundle load quickstart.zip
.venv/bin/cdner run quickstart --backend replay
.venv/bin/cdner store hash --experiment quickstart
```

- A bundle contains what the LLM wrote (requests, completions, descriptions, reasoning texts), the settings, and each
  corpus's checksum. It contains no key, and of the sentences only those that the LLM itself quotes. `--with-corpus`
  adds sentences and annotations, if their licence allows it.
- On the other machine, import the same corpora, load the bundle, and run with `--backend replay`: every step is
  computed again without an LLM.
- `cdner store hash` prints one hash of all results. Two machines print the same hash exactly when the tables are equal;
  `--tables` shows where they differ.
- Expect equal results with the same library versions, the same kind of processor, `backbone.dtype = "float32"` and,
  for a T5, the same number of threads. Otherwise training can differ in the last digits. The LLM's texts never differ.

## Security

cdner reads files and answers that others made. For each kind, this is what it promises and what it does not promise.

**A store.** Opening, reading, migrating and verifying a store changes no file but the store, its log, its backups and
its temporary folder; no other file is read and no extension is loaded. cdner refuses a link, a pipe or a device in
the place of a store or of its log, and a store with a macro, a trigger, or a view that has a table's name. Not
promised: that the contents are true. Whoever writes a store can write any result into it. `cdner store verify` finds
changed hashes and changed copies of known corpora, not invented scores. Errors in DuckDB itself may be within reach
of a prepared file.

**SQL.** `cdner sql` reads the store and no other file, has no network and writes nothing. It ends at its limits of
time and memory, and with the command that started it. Not promised: a fair share of the processor until then.
Commands that write wait for it.

**A bundle.** Nothing is unpacked to disk. Sizes, types, hashes and references are checked, then all of it is loaded
or nothing. An answer, a label or a corpus that the store has stays the one that is used. A corpus under a known name
is compared with its file where this machine has the file, and otherwise read again before it is used. Not promised:
that an LLM wrote the texts, or that they cost what the bundle says. Requests without an answer in the store take the
bundle's.

**A corpus.** Its text is data: it is escaped in reports, terminals and exports, and never run. Known corpora are
checked by SHA-256. Not promised: that an LLM ignores instructions in a sentence. `--csv` writes values as they are; a
spreadsheet may take a text for a formula.

**An experiment file.** Its keys and values are checked before any step runs. It cannot name a program to start or
options of vLLM that can load code: these come from the command line or the environment. Not promised: what it costs.
It chooses the models and the number of requests: read a stranger's file first, and set `--max-cost`.

**A model.** Weights are read as safetensors and compared with the stored checksum when they are loaded, and no Python
code from a model's folder is run. Not promised: that its predictions are harmless, or that the libraries that load it
have no errors.

**An LLM server.** Its answers are text and never run; what cannot be read is counted, and each is bounded in bytes
and time. The API key goes to OpenAI, or to an address from the command line or `OPENAI_BASE_URL`; never by the
backend vllm, to an address that only an experiment file names, or over plain http beyond this machine. Prompts do not
follow redirects. Not promised: that the server keeps to itself what it is sent. It sees every sentence: use a local
model for texts that must not leave the machine.

**Outputs.** A command replaces a file only with `--force`, and keeps the file's mode. It never writes over a
database, a link, a device, or a folder with files that cdner did not write. A new store has mode 0600; a log that a
killed process leaves beside it has the usual mode.

cdner is a tool for one user on one machine. It does not protect a store from other processes of the same user.
"""


def render_dictionary(store: Store) -> str:
    """Renders Markdown: an introduction, then every view and table with its columns and their comments."""
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
