"""Commands that look at a run: `show`, `evaluate`, `plot` and `report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cycleqd_merge.cli.options import Json, RunFolder
from cycleqd_merge.cli.printing import console, print_archives, print_json, print_scores


class RowsOf(StrEnum):
    """Which rows to score on."""

    search = "search"
    confirm = "confirm"
    heldout = "heldout"


def show(
    run: RunFolder,
    elite: Annotated[str | None, typer.Option(help="Show one model and its lineage.")] = None,
    all_elites: Annotated[bool, typer.Option("--all", help="List every elite.")] = False,
    as_json: Json = False,
) -> None:
    """Summarise a run: archives, coverage, QD score, elites; or one elite's lineage."""
    from cycleqd_merge.evolution.candidate import candidate_kind
    from cycleqd_merge.report.summary import lineage, summary
    from cycleqd_merge.report.tables import candidate_view, elite_table, lineage_table
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    if elite is not None:
        chosen = choose(loaded, elite)
        line = [] if chosen.number is None else lineage(loaded, chosen.number)
        if as_json:
            made_of = {candidate_kind(chosen.candidate): chosen.candidate.to_json()}
            print_json({"name": chosen.label, **made_of, "lineage": line})
        else:
            view = candidate_view(chosen.candidate, loaded.experts, loaded.groups)
            console().print(view, lineage_table(line, loaded.tasks))
    elif as_json:
        print_json(summary(loaded))
    else:
        facts, screen = summary(loaded), console()
        below = f"{facts['below_floor']} below a floor, " if loaded.space.floors else ""
        saved = facts["rows_saved"]
        dropped = "" if saved is None else f"{facts['censored']} dropped early ({saved:.0%} of all rows saved), "
        screen.print(
            f"generation {facts['generation']} of {facts['generations']}, {facts['failed']} failed, {below}"
            f"{dropped}best mean #{facts['best_mean']}",
            highlight=False,
        )
        print_archives(loaded)
        for archive in loaded.archives:
            screen.print(elite_table(archive, loaded, None if all_elites else 10))


def evaluate(
    run: RunFolder,
    models: Annotated[list[str] | None, typer.Argument(help="Models of the run, or model:REFERENCE.")] = None,
    split: Annotated[RowsOf, typer.Option(help="Rows to score on.")] = RowsOf.heldout,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first rows of each task.")] = None,
    as_json: Json = False,
) -> None:
    """Score models of a run, or any other model, on its tasks. Without names: base, experts, mean, elite, aggregate."""
    from cycleqd_merge.outputs.measure import evaluation_json, measure, record, usual_models
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    evaluations = measure(loaded, models or usual_models(loaded), split.value, limit)
    if limit is None:
        record(loaded, run, split.value, evaluations)
    if as_json:
        print_json({name: evaluation_json(evaluation) for name, evaluation in evaluations.items()})
    else:
        print_scores(loaded, split.value, {name: evaluation.scores for name, evaluation in evaluations.items()})


def plot(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; by default RUN/figures.")] = None,
    elite: Annotated[str, typer.Option(help="The elite to mark and whose ancestors are drawn.")] = "best-mean",
    generations: Annotated[int, typer.Option(min=2, help="Ancestors drawn at most.")] = 24,
) -> None:
    """Draw a run: its archives, its progress, and the ancestors of an elite, as PNG and SVG."""
    from cycleqd_merge.report.figures import archives_figure, lineage_figure, progress_figure, save
    from cycleqd_merge.report.summary import history, lineage
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    folder = out or run / "figures"
    number = choose(loaded, elite).number
    marked = {} if number is None else {number: elite}
    paths = save(archives_figure(loaded.archives, loaded.objectives, marked), folder, "archives")
    paths += save(progress_figure(history(loaded), loaded.objectives), folder, "progress")
    if number is not None:
        figure = lineage_figure(lineage(loaded, number, generations), loaded.objectives, loaded.experts)
        paths += save(figure, folder, "lineage")
    for path in paths:
        typer.echo(path)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run or a comparison.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="File to write; by default RUN/report.html.")] = None,
) -> None:
    """Write a run as one HTML page: scores, archives to click through, lineages, progress, comparison, settings."""
    from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison
    from cycleqd_merge.comparison.page_section import page_section
    from cycleqd_merge.report.page import write_page

    opened = open_run_or_comparison(run)
    section = None if opened.comparison is None else page_section(opened.comparison)
    page = output or run / "report.html"
    write_page(opened.run, str(opened.folder), page, section)
    typer.echo(page)
