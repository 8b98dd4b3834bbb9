"""The commands `show`, `evaluate`, `plot` and `report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cycleqd_merge.cli.options import Json, RunFolder
from cycleqd_merge.cli.printing import console, print_archives, print_json, print_scores

if TYPE_CHECKING:
    from cycleqd_merge.run.state import Run


class SplitName(StrEnum):
    """Splits of a task."""

    search = "search"
    confirm = "confirm"
    heldout = "heldout"


def show_command(
    run: RunFolder,
    elite: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Show one model, named as for `export`, and its lineage.")
    ] = None,
    all_elites: Annotated[
        bool, typer.Option("--all", help="List every elite, not only the 10 best of each archive.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Summarise a run: archives, coverage, QD score and elites. With --elite: one model and its ancestors."""
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    if elite is not None:
        _show_model(loaded, elite, as_json)
    elif as_json:
        from cycleqd_merge.report.summary import summary

        print_json(summary(loaded))
    else:
        _show_archives(loaded, None if all_elites else 10)


def _show_model(run: Run, name: str, as_json: bool) -> None:
    from cycleqd_merge.evolution.candidate import candidate_kind
    from cycleqd_merge.report.summary import lineage
    from cycleqd_merge.report.tables import candidate_view, lineage_table
    from cycleqd_merge.run.elites import choose

    chosen = choose(run, name)
    line = [] if chosen.number is None else lineage(run, chosen.number)
    if as_json:
        composition = {candidate_kind(chosen.candidate): chosen.candidate.to_json()}
        print_json({"name": chosen.label, **composition, "lineage": line})
    else:
        view = candidate_view(chosen.candidate, run.experts, run.groups)
        console().print(view, lineage_table(line, run.tasks))


def _show_archives(run: Run, most: int | None) -> None:
    from cycleqd_merge.report.optimism import chosen_mean
    from cycleqd_merge.report.row_coverage import row_coverage
    from cycleqd_merge.report.tables import elite_table, fit_table, progress_line, row_coverage_table

    typer.echo(progress_line(run))
    if (chosen := chosen_mean(run)) is not None:
        typer.echo(chosen)
    if run.fits:
        console().print(fit_table(run))
    print_archives(run)
    for archive in run.archives:
        console().print(elite_table(archive, run, most))
    if coverage := row_coverage(run):
        console().print(row_coverage_table(coverage))


def evaluate_command(
    run: RunFolder,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names as for `export`, or model:REFERENCE for any other model."),
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Split to score on.")] = SplitName.heldout,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of rows of each task to score on; by default all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score models on a run's tasks; by default the base, the experts, their mean, best-mean and aggregate."""
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)  # reports an error before the import below, which takes seconds
    from cycleqd_merge.outputs.measure import evaluation_json, measure, usual_models

    evaluations = measure(loaded, models or usual_models(loaded), split.value, limit, folder=run)
    if as_json:
        print_json({name: evaluation_json(evaluation) for name, evaluation in evaluations.items()})
    else:
        print_scores(loaded, split.value, {name: evaluation.scores for name, evaluation in evaluations.items()})


def plot_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Directory for the figures; by default RUN/figures.")] = None,
    elite: Annotated[
        str, typer.Option(metavar="MODEL", help="Model to mark, and to plot the ancestors of.")
    ] = "best-mean",
    generations: Annotated[int, typer.Option(min=2, help="Maximum number of ancestors to plot.")] = 24,
) -> None:
    """Plot a run's archives, its progress and the ancestors of a model, as PNG and SVG files."""
    from cycleqd_merge.report.summary import history, lineage
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    number = choose(loaded, elite).number
    from cycleqd_merge.report.figures import archives_figure, lineage_figure, progress_figure, save  # matplotlib

    folder = out or run / "figures"
    marked = {} if number is None else {number: elite}
    paths = save(archives_figure(loaded.archives, loaded.objectives, marked), folder, "archives")
    paths += save(progress_figure(history(loaded), loaded.objectives), folder, "progress")
    if number is not None:
        figure = lineage_figure(lineage(loaded, number, generations), loaded.objectives, loaded.experts)
        paths += save(figure, folder, "lineage")
    for path in paths:
        typer.echo(path)


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run or a comparison.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="File to write; by default RUN/report.html.")] = None,
) -> None:
    """Write a run's report as one HTML page: scores, interactive archives, lineages, progress, comparison, settings."""
    from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison
    from cycleqd_merge.comparison.page_section import page_section
    from cycleqd_merge.report.page import write_page

    opened = open_run_or_comparison(run)
    section = None if opened.comparison is None else page_section(opened.comparison)
    page = output or run / "report.html"
    write_page(opened.run, str(opened.folder), page, section, opened.verdict)
    typer.echo(page)
