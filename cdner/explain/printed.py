"""What ``cdner explain`` prints: one function a step, each text made harmless to look at. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cdner.console.output import print_rich, print_table, visible

if TYPE_CHECKING:
    from rich.text import Text

    from cdner.explain.explanation import Change, ChosenType, Found, Reasoned
    from cdner.types import Entity, ReasoningRequest, Sentence

_SHOWN_CHARACTERS = 280  # of a message, at either end
_NONE = "-"
_PART_TITLES = {"initial": "Initial reasoning", "bidirectional": "Bidirectional reasoning"}


def print_head(title: str, sentence: Sentence, changed: Sequence[str]) -> None:
    click.echo(visible(title))
    click.echo(visible(f"{len(sentence.tokens)} tokens: {sentence.text}"))
    if changed:
        click.echo(
            f"Warning: not as it was when the models were trained: {', '.join(changed)} of the prompt.",
            err=True,
        )


def print_coarse(sentence: Sentence, coarse: Found, short: Mapping[str, str]) -> None:
    print_title("Coarse types (M_src)")
    print_rich(marked(sentence, coarse.prediction.entities, short))
    print_malformed("M_src", coarse)


def print_prompt(types: Sequence[ChosenType], request: ReasoningRequest, *, whole: bool) -> None:
    print_title("Target types: prefix, and what each is taken for")
    rows = [
        (
            row.name,
            f"{row.prefix} (by default)" if row.is_default else row.prefix,
            ", ".join(f"{rival} ({score:.3f})" for rival, score in row.rivals) or _NONE,
        )
        for row in types
    ]
    print_table(("type", "prefix", "rivals (v_conf)"), rows)
    n_characters = sum(len(message.content) for message in request.messages)
    print_title(
        f"Prompt ({len(request.messages)} messages, {n_characters} characters"
        + (")" if whole else "; --prompt shows it whole)")
    )
    for message in request.messages:
        click.echo(f"--- {message.role} ---")
        click.echo(visible(message.content if whole else _shortened(message.content)))


def _shortened(text: str) -> str:
    n_left_out = len(text) - 2 * _SHOWN_CHARACTERS
    if n_left_out <= 0:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}\n[... {n_left_out} characters ...]\n{text[-_SHOWN_CHARACTERS:]}"


class Listening:
    """Shows a text on stderr while it is written; the finished one is printed on stdout. A context manager."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._quiet = quiet
        self._n_heard = 0

    def __enter__(self) -> Listening:
        if not self._quiet:
            click.echo(f"{visible(self._label)} ...", err=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._n_heard and not self._quiet:
            click.echo(err=True)

    def hear(self, piece: str) -> None:
        """One more piece, in any thread."""
        self._n_heard += 1
        if not self._quiet:
            click.echo(click.style(visible(piece), dim=True), nl=False, err=True)


def print_reasoning(reasoned: Reasoned, model: str) -> None:
    completion = reasoned.completion
    when = "from the store" if reasoned.was_stored else f"{reasoned.seconds:.1f} s"
    print_title(
        f"Reasoning by {visible(model)} ({when}; {completion.input_tokens} tokens read, "
        f"{completion.output_tokens} written, ended by {visible(completion.finish_reason)})"
    )
    for part, title in _PART_TITLES.items():
        click.echo(f"{title}: {visible(getattr(reasoned.chain, part)) or _NONE}")
    if reasoned.chain.malformed:
        click.echo(f"Malformed: {_counts(reasoned.chain.malformed)}")


def print_entities(
    sentence: Sentence,
    without: Found,
    augmented: Found,
    rows: Sequence[Change],
    seconds: Mapping[str, Any],
) -> None:
    from rich.table import Table

    print_title("Entities")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("without reasoning (M_tgt)", ratio=1, overflow="fold")
    table.add_column("with reasoning (M_aug)", ratio=1, overflow="fold")
    table.add_row(*(marked(sentence, found.prediction.entities) for found in (without, augmented)))
    print_rich(table)
    for name, found in (("M_tgt", without), ("M_aug", augmented)):
        print_malformed(name, found)
    n_changed = sum(row.kind != "same" for row in rows)
    print_title(f"What changed ({n_changed} of {len(rows)} entities)")
    if rows:
        listed = [(row.kind, row.mention, row.before or _NONE, row.after or _NONE) for row in rows]
        print_table(("change", "mention", "without", "with"), listed)
    click.echo()
    click.echo(_time_line(seconds))


def print_title(title: str) -> None:
    from rich.text import Text

    click.echo()
    print_rich(Text(title, style="bold"))


def marked(sentence: Sentence, entities: Sequence[Entity], short: Mapping[str, str] | None = None) -> Text:
    """``[Greta Gerwig: person] directed ...``, entities in bold where the terminal can."""
    from rich.text import Text

    text, done = Text(), 0
    for entity in sorted(entities):
        text.append(visible("".join(f"{token} " for token in sentence.tokens[done : entity.start])))
        mention = " ".join(sentence.tokens[entity.start : entity.end])
        named = (short or {}).get(entity.type, entity.type)
        text.append(visible(f"[{mention}: {named}]"), style="bold cyan")
        done = entity.end
        text.append(" " if done < len(sentence.tokens) else "")
    return text.append(visible(" ".join(sentence.tokens[done:])))


def print_malformed(name: str, found: Found) -> None:
    notes = [f"malformed: {_counts(found.prediction.malformed)}"] if found.prediction.malformed else []
    if cut := found.generation.n_truncated_tokens:
        notes.append(f"{cut} tokens of the input cut off")
    if notes:
        click.echo(f"{name}: {'; '.join(notes)}")


def _counts(malformed: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} ({count})" for kind, count in malformed.items())


def _time_line(seconds: Mapping[str, Any]) -> str:
    models = (("M_src", "source_model"), ("M_tgt", "target_model"), ("M_aug", "augmented_model"))
    parts = [
        f"{name} {seconds[key]['predicting']:.1f} s (loading {seconds[key]['loading']:.1f} s)"
        for name, key in models
    ]
    parts.insert(1, f"reasoning {seconds['reasoning']:.1f} s")
    return f"Time: {', '.join(parts)}; {seconds['total']:.1f} s in all."
