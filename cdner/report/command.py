"""``cdner report``: what experiments found, as one page to read, tables to print and figures."""

from __future__ import annotations

from pathlib import Path

import click

from cdner.console.named_runs import experiment_name
from cdner.console.output import visible
from cdner.errors import UsageError
from cdner.files import check_output, output

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("report")
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...")
@click.option(
    "--html", type=_FILE, help="One self-contained page: scores, maps, every error; needs no network."
)
@click.option(
    "--markdown", type=_FILE, help="Tables: leaderboard, published, ablation, errors per type, usage."
)
@click.option("--latex", type=_FILE, help="The same tables for LaTeX, with booktabs.")
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for the charts as PNG and SVG; needs matplotlib (the extra 'figures').",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--title", help="Heading of the page.  [default: the experiments' names]")
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=10_000,
    show_default=True,
    help="Bootstrap resamples of the intervals.",
)
@click.pass_context
def report(
    ctx: click.Context,
    experiments: tuple[str, ...],
    html: Path | None,
    markdown: Path | None,
    latex: Path | None,
    figures: Path | None,
    title: str | None,
    resamples: int,
    *,
    force: bool,
) -> None:
    """Show EXPERIMENTs (default: all in the store): names as in the store, or their files; a matrix with all cells."""
    from cdner.report import render_page
    from cdner.report.figures import demand_matplotlib, write_figures
    from cdner.report.gathering import gather
    from cdner.report.printed import latex as as_latex
    from cdner.report.printed import markdown as as_markdown
    from cdner.report.tables import printed_tables
    from cdner.store import Store

    if (html, markdown, latex, figures) == (None,) * 4:
        raise UsageError(
            "Nothing to write: name --html FILE, --markdown FILE, --latex FILE or --figures FOLDER."
        )
    if figures:
        demand_matplotlib()  # before anything takes time
    for file in filter(None, (html, markdown, latex)):
        check_output(file, force=force)
    names = [experiment_name(name) for name in experiments]
    found = gather(Store(ctx.obj["store"]), names, title=title or "", n_resamples=resamples)
    if html:
        _write(html, render_page(found), force=force)
    tables = printed_tables(found)
    if markdown:
        _write(markdown, as_markdown(tables), force=force)
    if latex:
        _write(latex, as_latex(tables), force=force)
    for path in write_figures(found, figures, force=force) if figures else ():
        click.echo(visible(str(path)))


def _write(path: Path, text: str, *, force: bool) -> None:
    with output(path, force=force) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
    click.echo(visible(str(path)))


COMMANDS = {"report": report}
