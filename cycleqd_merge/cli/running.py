"""Commands that work on a run: `evolve`, `fork`, `plan` and `confirm`."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cycleqd_merge.cli.options import Generations, Json, MaxHours, Output, RecipeOrRun, RunFolder, Settings
from cycleqd_merge.cli.printing import console, print_archives, print_confirmed, print_json, print_pushed, print_scores
from cycleqd_merge.errors import HubFailed, UserError

if TYPE_CHECKING:
    from cycleqd_merge.config.recipe import Recipe
    from cycleqd_merge.run.state import Run


def evolve(
    recipe: RecipeOrRun,
    settings: Settings = None,
    generations: Generations = None,
    output: Output = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew beside a run that is there.")] = False,
    max_hours: MaxHours = None,
) -> None:
    """Evolve a recipe: begin a run, or go on with the one in its output directory."""
    from cycleqd_merge.session.evolve import output_folder

    loaded, folder = _recipe_or_run(recipe, _overrides(settings, generations, output))
    out = output_folder(loaded, fresh)
    _evolve(loaded.model_copy(update={"output": str(out)}), folder, max_hours)


def fork(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="Directory of the new run.", show_default=False)],
    settings: Settings = None,
    max_hours: MaxHours = None,
) -> None:
    """Start a run from another's archives, with other operators or tasks; scores of unchanged tasks are kept."""
    from cycleqd_merge.session.fork import fork as fork_run

    recipe, folder, seeds = fork_run(run, out, settings or [])
    _evolve(recipe, folder, max_hours, seeds)


def plan(
    recipe: RecipeOrRun,
    settings: Settings = None,
    generations: Generations = None,
    output: Output = None,
    measure: Annotated[bool, typer.Option(help="Evaluate one child, to estimate time and memory.")] = True,
    as_json: Json = False,
) -> None:
    """Check a recipe, tell all its faults at once, and estimate what its run takes; nothing is written to the run."""
    since = time.perf_counter()
    from cycleqd_merge.preflight.plan import plan as make_plan
    from cycleqd_merge.report.plan import plan_report

    found = make_plan(*_recipe_or_run(recipe, _overrides(settings, generations, output)), measure, since)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(plan_report(found))
    if found.faults:
        raise UserError("\n".join(found.faults))


def confirm(
    run: RunFolder,
    top: Annotated[int | None, typer.Option(min=1, help="Elites to score again, instead of the recipe's.")] = None,
) -> None:
    """Score the top elites of a run again on the rows set aside for it, and choose by both scores."""
    from cycleqd_merge.session.evolve import confirm_run

    print_confirmed(confirm_run(run, top))


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
    from cycleqd_merge.config.loading import load_recipe, override_recipe
    from cycleqd_merge.run.state import open_run

    if path.is_dir():
        loaded = open_run(path)
        here = [f"output={json.dumps(str(path))}", *overrides]
        return override_recipe(loaded.recipe, here, f"recipe of {path}"), loaded.folder
    return load_recipe(path, overrides), path.parent


def _evolve(recipe: Recipe, folder: Path, max_hours: float | None, seeds: Sequence[dict[str, Any]] = ()) -> None:
    from cycleqd_merge.report.progress import ProgressDisplay
    from cycleqd_merge.session.evolve import run_recipe

    with ProgressDisplay(console()) as progress:
        loaded = run_recipe(
            recipe,
            folder,
            progress,
            seeds=seeds,
            max_hours=max_hours,
            progress=progress.bases,
            fetching=progress.fetching,
        )
    if loaded is not None:
        print_archives(loaded)
        print_confirmed(loaded)
        _finish(loaded, Path(recipe.output))
        _publish(loaded, Path(recipe.output))


def _finish(loaded: Run, out: Path) -> None:
    """What the recipe wants done after the last generation; not done again where it was done before."""
    from cycleqd_merge.outputs.export import finish_exports
    from cycleqd_merge.outputs.measure import heldout_scores

    for name, folder in finish_exports(loaded, out):
        console().print(f"{name} is in {folder}", highlight=False)
    if loaded.recipe.finish.heldout:
        print_scores(loaded, "heldout", heldout_scores(loaded, out))


def _publish(loaded: Run, out: Path) -> None:
    """Push what the recipe's `hub` says."""
    if loaded.recipe.hub is None:
        return
    from cycleqd_merge.hub.publication import PushOptions
    from cycleqd_merge.hub.publish import publish

    try:
        publish(out, loaded.recipe.hub, PushOptions(), print_pushed)
    except (UserError, HubFailed) as error:
        again = shlex.join(["cycleqd-merge", "push", str(out)])
        raise HubFailed(f"the run is complete, but was not all pushed: {error}; push again with: {again}") from error
