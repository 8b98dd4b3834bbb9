"""The command line: parse, call, print. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cycleqd_merge.errors import HubFailed, Interrupted, RunFailed, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from cycleqd_merge.hub.draft import Pushed
    from cycleqd_merge.journal.replay import Replay
    from cycleqd_merge.recipe.schema import Recipe

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="cycleqd-merge",
    help="Evolve merges of fine-tuned language models with CycleQD.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class RowsOf(StrEnum):
    """Which rows to score on."""

    search = "search"
    confirm = "confirm"
    heldout = "heldout"


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and debug messages.")] = False,
) -> None:
    """Options for every command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("cycleqd_merge").setLevel(logging.DEBUG if debug else logging.INFO)
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own progress bars would break into ours


@app.command()
def evolve(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the directory of a run to go on with.")],
    settings: Settings = None,
    generations: Annotated[int | None, typer.Option(min=0, help="Children to evaluate in all.")] = None,
    output: Annotated[str | None, typer.Option(help="Run directory.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew beside a run that is there.")] = False,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Stop after so many hours; go on later.")] = None,
) -> None:
    """Evolve a recipe: begin a run, or go on with the one in its output directory."""
    from cycleqd_merge.run.session import output_folder

    loaded, folder = _recipe_or_run(recipe, _overrides(settings, generations, output))
    out = output_folder(loaded, fresh)
    _evolve(loaded.model_copy(update={"output": str(out)}), folder, max_hours)


@app.command()
def fork(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="Directory of the new run.", show_default=False)],
    settings: Settings = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Stop after so many hours; go on later.")] = None,
) -> None:
    """Start a run from another's archives, with other operators or tasks; scores of unchanged tasks are kept."""
    from cycleqd_merge.run.fork import fork as fork_run

    recipe, folder, seeds = fork_run(run, out, settings or [])
    _evolve(recipe, folder, max_hours, seeds)


def _overrides(settings: list[str] | None, generations: int | None, output: str | None) -> list[str]:
    """The options that stand for keys of the recipe, with those of `--set`."""
    overrides = [*(settings or [])]
    if generations is not None:
        overrides.append(f"evolution.generations={generations}")
    if output is not None:
        overrides.append(f"output={json.dumps(output)}")
    return overrides


def _recipe_or_run(path: Path, overrides: list[str]) -> tuple[Recipe, Path]:
    """A recipe and the folder its relative paths start at, from a recipe file or a run directory."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.recipe.loading import load_recipe, override_recipe

    if path.is_dir():
        replay = open_run(path)
        here = [f"output={json.dumps(str(path))}", *overrides]
        return override_recipe(replay.recipe, here, f"recipe of {path}"), replay.folder
    return load_recipe(path, overrides), path.parent


def _evolve(recipe: Recipe, folder: Path, max_hours: float | None, seeds: Sequence[dict[str, Any]] = ()) -> None:
    from cycleqd_merge.report.progress import Progress
    from cycleqd_merge.run.session import run_recipe

    with Progress(_console()) as progress:
        replay = run_recipe(
            recipe,
            folder,
            progress,
            seeds=seeds,
            max_hours=max_hours,
            progress=progress.bases,
            fetching=progress.fetching,
        )
    if replay is not None:
        _print_archives(replay)
        _print_confirmed(replay)
        _finish(replay, Path(recipe.output))
        _publish(replay, Path(recipe.output))


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the directory of a run to go on with.")],
    settings: Settings = None,
    generations: Annotated[int | None, typer.Option(min=0, help="Children to evaluate in all.")] = None,
    output: Annotated[str | None, typer.Option(help="Run directory.")] = None,
    measure: Annotated[bool, typer.Option(help="Evaluate one child, to estimate time and memory.")] = True,
    as_json: Json = False,
) -> None:
    """Check a recipe, tell all its faults at once, and estimate what its run takes; nothing is written to the run."""
    since = time.perf_counter()
    from cycleqd_merge.report.plan import plan_report
    from cycleqd_merge.run.plan import plan as make_plan

    found = make_plan(*_recipe_or_run(recipe, _overrides(settings, generations, output)), measure, since)
    if as_json:
        _print_json(found.to_json())
    else:
        _console().print(plan_report(found))
    if found.faults:
        raise UserError("\n".join(found.faults))


@app.command()
def show(
    run: RunFolder,
    elite: Annotated[str | None, typer.Option(help="Show one model and its lineage.")] = None,
    all_elites: Annotated[bool, typer.Option("--all", help="List every elite.")] = False,
    as_json: Json = False,
) -> None:
    """Summarise a run: archives, coverage, QD score, elites; or one elite's lineage."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.report.summary import lineage, summary
    from cycleqd_merge.report.tables import elite_table, genome_table, lineage_table
    from cycleqd_merge.run.elites import choose

    replay = open_run(run)
    if elite is not None:
        chosen = choose(replay, elite)
        line = [] if chosen.number is None else lineage(replay, chosen.number)
        if as_json:
            _print_json({"name": chosen.label, "genome": chosen.genome.to_json(), "lineage": line})
        else:
            _console().print(
                genome_table(chosen.genome, replay.experts, replay.groups), lineage_table(line, replay.tasks)
            )
    elif as_json:
        _print_json(summary(replay))
    else:
        facts = summary(replay)
        console = _console()
        below = f"{facts['below_floor']} below a floor, " if replay.space.floors else ""
        console.print(
            f"generation {facts['generation']} of {facts['generations']}, {facts['failed']} failed, {below}"
            f"best mean #{facts['best_mean']}",
            highlight=False,
        )
        _print_archives(replay)
        for archive in replay.archives:
            console.print(elite_table(archive, replay, None if all_elites else 10))


@app.command()
def evaluate(
    run: RunFolder,
    models: Annotated[list[str] | None, typer.Argument(help="Models of the run, or model:REFERENCE.")] = None,
    split: Annotated[RowsOf, typer.Option(help="Rows to score on.")] = RowsOf.heldout,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first rows of each task.")] = None,
    as_json: Json = False,
) -> None:
    """Score models of a run, or any other model, on its tasks. Without names: base, experts, mean, elite, aggregate."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.run.measure import measure, record, usual_models

    replay = open_run(run)
    evaluations = measure(replay, models or usual_models(replay), split.value, limit)
    if limit is None:
        record(replay, run, split.value, evaluations)
    if as_json:
        _print_json(
            {
                name: {
                    task: {
                        "score": result.score,
                        "truncated": result.truncated,
                        "samples": {
                            sample: outcome.score
                            for sample, outcome in zip(result.samples, result.outcomes, strict=True)
                        },
                    }
                    for task, result in evaluation.results.items()
                }
                for name, evaluation in evaluations.items()
            }
        )
    else:
        _print_scores(replay, split.value, {name: evaluation.scores for name, evaluation in evaluations.items()})


@app.command()
def export(
    run: RunFolder,
    elite: Annotated[str, typer.Argument(help="best-mean, aggregate, best:TASK, TASK:CELL, #NUMBER ...")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Write a model of a run as a checkpoint that transformers loads."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.run.export import export as write

    chosen = write(open_run(run), elite, out)
    _console().print(f"{chosen.label} is in {out}", highlight=False)


@app.command()
def confirm(
    run: RunFolder,
    top: Annotated[int | None, typer.Option(min=1, help="Elites to score again, instead of the recipe's.")] = None,
) -> None:
    """Score the top elites of a run again on the rows set aside for it, and choose by both scores."""
    from cycleqd_merge.run.session import confirm_run

    _print_confirmed(confirm_run(run, top))


@app.command()
def plot(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; by default RUN/figures.")] = None,
    elite: Annotated[str, typer.Option(help="The elite to mark and whose ancestors are drawn.")] = "best-mean",
    generations: Annotated[int, typer.Option(min=2, help="Ancestors drawn at most.")] = 24,
) -> None:
    """Draw a run: its archives, its progress, and the ancestors of an elite, as PNG and SVG."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.report.figures import archives_figure, lineage_figure, progress_figure, save
    from cycleqd_merge.report.summary import history, lineage
    from cycleqd_merge.run.elites import choose

    replay = open_run(run)
    folder = out or run / "figures"
    number = choose(replay, elite).number
    marked = {} if number is None else {number: elite}
    paths = save(archives_figure(replay.archives, replay.objectives, marked), folder, "archives")
    paths += save(progress_figure(history(replay), replay.objectives), folder, "progress")
    if number is not None:
        figure = lineage_figure(lineage(replay, number, generations), replay.objectives, replay.experts)
        paths += save(figure, folder, "lineage")
    for path in paths:
        typer.echo(path)


@app.command()
def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="File to write; by default RUN/report.html.")] = None,
) -> None:
    """Write a run as one HTML page: scores, archives to click through, lineages, progress, settings."""
    from cycleqd_merge.journal.replay import open_run
    from cycleqd_merge.report.page import write_page

    page = output or run / "report.html"
    write_page(open_run(run), str(run), page)
    typer.echo(page)


class Layout(StrEnum):
    """Where further models go."""

    subfolders = "subfolders"
    repos = "repos"


@app.command()
def push(
    run: RunFolder,
    repo: Annotated[str | None, typer.Option(help="user/name; by default that of the recipe's `hub`.")] = None,
    root: Annotated[str | None, typer.Option(help="The model at the root: a name that `export` takes.")] = None,
    elites: Annotated[
        list[str] | None, typer.Option(help="Further models: such a name, best, all-best or pareto; repeatable.")
    ] = None,
    layout: Annotated[Layout | None, typer.Option(help="Further models in subfolders, or repositories.")] = None,
    adapters: Annotated[bool | None, typer.Option("--adapters", help="Push models as LoRA adapters.")] = None,
    rows: Annotated[bool | None, typer.Option("--rows", help="Push the tasks' local row files too.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence, as the Hub calls it; by default the parents'.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private", help="Make new repositories private.")] = None,
    space: Annotated[bool | None, typer.Option("--space", help="Push the run's page as a static Space.")] = None,
    archive_only: Annotated[bool, typer.Option("--archive-only", help="Push the archive alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch instead of main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open pull requests instead.")] = False,
    onto: Annotated[str | None, typer.Option(help="Build upon this foreign commit on main.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show repositories, files and bytes only.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub: its archive as a dataset, its best models as model repositories."""
    if sys.stderr.isatty():  # uploads take long enough for the client's own bars
        os.environ.pop("TQDM_DISABLE", None)
    from cycleqd_merge.report.pushed import pushed_json, pushed_lines
    from cycleqd_merge.run.publication import Options
    from cycleqd_merge.run.publish import hub_settings, publish

    stated = {
        "repo": repo,
        "root": root,
        "elites": elites,
        "layout": None if layout is None else layout.value,
        "adapters": adapters,
        "rows": rows,
        "private": private,
        "license": licence,
        "space": space,
    }
    settings = hub_settings(run, {key: value for key, value in stated.items() if value is not None})
    options = Options(archive_only, dry_run, create_pr, revision, onto)

    def report(done: Pushed) -> None:
        if not as_json:
            for line in pushed_lines(done, dry_run):
                typer.echo(line)

    pushed = publish(run, settings, options, report)
    if as_json:
        _print_json([pushed_json(each) for each in pushed])


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="A published archive: user/name-archive.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Run directory to make.", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="A tag such as gen-120, a branch or a commit.")] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="Unite with this archive, or run directory; repeatable.")
    ] = None,
    settings: Settings = None,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help="Let its recipe name code that is run.")] = False,
) -> None:
    """Bring a published run to this disk, to look at, export from and go on with."""
    from cycleqd_merge.hub.pull import pull as bring

    replay, missing = bring(repo, out, revision, merge or (), settings or (), trust)
    typer.echo(f"{out}: generation {replay.generation}, {len(replay.elites())} elites")
    for path in missing:
        typer.echo(f"not published with it, needed to go on: {out / path}")


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="A mergekit configuration.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Run a mergekit configuration, the method `cycleqd` of an exported elite among them."""
    from cycleqd_merge.merging.mergekit_run import merge_to_disk

    merge_to_disk(config, out)


@app.command()
def convert(genome: Annotated[Path, typer.Argument(help="A mergekit-evolve YAML.", show_default=False)]) -> None:
    """Print a mergekit-evolve configuration as a recipe."""
    from cycleqd_merge.recipe.convert import convert_genome, to_yaml

    typer.echo(to_yaml(convert_genome(genome)), nl=False)


task_app = typer.Typer(help="Look at tasks by themselves, without a recipe.", no_args_is_help=True)
app.add_typer(task_app, name="task")


@task_app.callback()
def task_options() -> None:
    """Look at tasks by themselves, without a recipe."""


@task_app.command("check")
def check_task(
    task: Annotated[str, typer.Argument(help="A task file, or a shipped task by its name.", show_default=False)],
    samples: Annotated[int | None, typer.Option(min=1, help="Check only so many samples of each split.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a task's grader: right answers to its own samples must be accepted, near misses must not."""
    from cycleqd_merge.report.tables import verdict_table
    from cycleqd_merge.run.check import check_task as check

    verdicts = check(task, samples)
    if as_json:
        _print_json([asdict(verdict) for verdict in verdicts])
    else:
        _console().print(verdict_table(verdicts))
    unfair = sum(not verdict.fair for verdict in verdicts)
    if unfair:
        raise RunFailed(f"task {task}: {unfair} of {len(verdicts)} known answers are graded wrongly")


sandbox_app = typer.Typer(help="What untrusted programs run in.", no_args_is_help=True)
app.add_typer(sandbox_app, name="sandbox")


@sandbox_app.callback()
def sandbox_options() -> None:
    """What untrusted programs run in."""  # a group of one command needs this to stay a group


class Distribution(StrEnum):
    """What a root file system is made of."""

    debian = "debian"
    ubuntu = "ubuntu"


@sandbox_app.command("build")
def build_sandbox(
    name: Annotated[str, typer.Argument(help="Name of the root file system, as tasks state it.")] = "default",
    distribution: Annotated[Distribution, typer.Option(help="What to install.")] = Distribution.debian,
    release: Annotated[str | None, typer.Option(help="Its release; by default bookworm, or jammy.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Where its packages come from.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Unpack a tar file instead.")] = None,
    docker: Annotated[bool, typer.Option("--docker", help="Build an image for Docker instead.")] = False,
) -> None:
    """Build the root file system that `os_interaction` tasks run on; about 2 minutes."""
    from cycleqd_merge.tasks.sandbox.docker import build_image
    from cycleqd_merge.tasks.sandbox.rootfs import build_rootfs, release_of

    if docker:
        made = build_image(name, distribution.value, release_of(distribution.value, release))
    else:
        made = str(build_rootfs(name, distribution.value, release, mirror, source))
    _console().print(f"{name} is {made}", highlight=False)


class SchemaOf(StrEnum):
    """What has a JSON Schema."""

    recipe = "recipe"
    task = "task"


@app.command()
def schema(of: Annotated[SchemaOf, typer.Argument(help="What to describe.")] = SchemaOf.recipe) -> None:
    """Print the JSON Schema of recipes or task files, for editors."""
    from cycleqd_merge.recipe.schema import json_schema

    _print_json(json_schema(of.value))


def main() -> None:
    """Run the command line; an error becomes one line and an exit code, a traceback only with `--debug`."""
    try:
        app()
    except UserError as error:
        _fail(error, str(error), WRONG_INPUT)
    except RunFailed as error:
        _fail(error, str(error), FAILED)
    except Interrupted as error:
        typer.echo(f"{error}; go on with: {shlex.join([app.info.name or '', *sys.argv[1:]])}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        _fail(error, f"{type(error).__name__}: {error} (a fault of this program; --debug shows where)", FAILED)


def _fail(error: Exception, message: str, code: int) -> None:
    if "--debug" in sys.argv:
        raise error
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    sys.exit(code)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _print_archives(replay: Replay) -> None:
    from cycleqd_merge.report.tables import heatmaps, overview

    if replay.archives:
        _console().print(overview(replay.archives, replay.objectives), heatmaps(replay.archives, replay.objectives))


def _print_confirmed(replay: Replay) -> None:
    from cycleqd_merge.report.tables import confirmed_table

    if replay.confirmed:
        _console().print(confirmed_table(replay))


def _print_scores(replay: Replay, split: str, scores: dict[str, tuple[float, ...]]) -> None:
    from cycleqd_merge.report.tables import score_table

    title = f"Scores on {split} rows"
    _console().print(score_table(title, replay.tasks, scores, len(replay.objectives)))


def _publish(replay: Replay, out: Path) -> None:
    """Push what the recipe's `hub` says."""
    if replay.recipe.hub is None:
        return
    from cycleqd_merge.report.pushed import pushed_lines
    from cycleqd_merge.run.publication import Options
    from cycleqd_merge.run.publish import publish

    def report(done: Pushed) -> None:
        for line in pushed_lines(done):
            typer.echo(line)

    try:
        publish(out, replay.recipe.hub, Options(), report)
    except (UserError, HubFailed) as error:
        again = shlex.join(["cycleqd-merge", "push", str(out)])
        raise HubFailed(f"the run is complete, but was not all pushed: {error}; push again with: {again}") from error


def _finish(replay: Replay, out: Path) -> None:
    """What the recipe wants done after the last generation; not done again where it was done before."""
    from cycleqd_merge.run.export import export as write
    from cycleqd_merge.run.measure import heldout_scores

    for name in replay.recipe.finish.export:
        folder = out / "models" / f"{name.replace(':', '-')}-gen-{replay.generation}"
        if not folder.exists():
            write(replay, name, folder)
            _console().print(f"{name} is in {folder}", highlight=False)
    if replay.recipe.finish.heldout:
        _print_scores(replay, "heldout", heldout_scores(replay, out))
