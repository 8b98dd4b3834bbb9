"""The commands `evolve`, `fork`, `plan` and `confirm`."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cycleqd_merge.cli.options import Generations, Json, MaxHours, NewFolder, Output, RecipeOrRun, RunFolder, Settings
from cycleqd_merge.cli.printing import console, print_confirmed, print_json
from cycleqd_merge.errors import Interrupted, RecipeError

if TYPE_CHECKING:
    from cycleqd_merge.config.recipe import Recipe


def evolve_command(
    recipe: RecipeOrRun,
    settings: Settings = None,
    generations: Generations = None,
    output: Output = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run next to an existing one.")] = False,
    max_hours: MaxHours = None,
) -> None:
    """Evolve a recipe: start a run, or resume the one in its output directory."""
    _evolve(_recipe_or_run(recipe, _overrides(settings, generations, output)), max_hours, fresh=fresh)


def fork_command(
    run: RunFolder,
    out: NewFolder,
    settings: Settings = None,
    max_hours: MaxHours = None,
    rescore: Annotated[bool, typer.Option("--rescore", help="Discard all scores and score every elite again.")] = False,
) -> None:
    """Start a new run from the elites of another, with other operators or tasks; keeps scores of unchanged tasks."""
    from cycleqd_merge.session.fork import fork

    recipe, founders = fork(run, out, settings or [], rescore)
    _evolve(recipe, max_hours, founders)


def plan_command(
    recipe: RecipeOrRun,
    settings: Settings = None,
    generations: Generations = None,
    output: Output = None,
    measure: Annotated[bool, typer.Option(help="Evaluate one child to estimate time and memory.")] = True,
    as_json: Json = False,
) -> None:
    """Check a recipe, report every error at once, and estimate time, memory and disk, without starting a run."""
    since = time.perf_counter()
    loaded = _recipe_or_run(recipe, _overrides(settings, generations, output))
    from cycleqd_merge.preflight.plan import plan  # takes seconds: after the recipe is validated
    from cycleqd_merge.report.plan import plan_report

    found = plan(loaded, measure, since)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(plan_report(found))
    if found.errors:
        raise RecipeError("\n".join(found.errors))


def confirm_command(
    run: RunFolder,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of elites with the highest mean to score; by default the recipe's `confirm.top`."
        ),
    ] = None,
) -> None:
    """Score the top elites of a run on the confirmation split, and choose the best by both scores."""
    from cycleqd_merge.session.search import confirm_elites

    print_confirmed(confirm_elites(run, top))


def _overrides(settings: list[str] | None, generations: int | None, output: str | None) -> list[str]:
    """The values of `--set`, followed by other options that override a key of the recipe, in the same form."""
    overrides = [*(settings or [])]
    if generations is not None:
        overrides.append(f"evolution.generations={generations}")
    if output is not None:
        overrides.append(f"output={json.dumps(output)}")
    return overrides


def _recipe_or_run(path: Path, overrides: list[str]) -> Recipe:
    """The recipe in a file, or the one of a run directory."""
    from cycleqd_merge.config.loading import load_recipe, override_recipe

    if not path.is_dir():
        return load_recipe(path, overrides)
    from cycleqd_merge.run.state import open_run

    here = [f"output={json.dumps(str(path))}", *overrides]
    return override_recipe(open_run(path).recipe, here, f"recipe of {path}")


def _evolve(
    recipe: Recipe, max_hours: float | None, founders: Sequence[dict[str, Any]] = (), fresh: bool = False
) -> None:
    from cycleqd_merge.cli.display import EvolveDisplay
    from cycleqd_merge.session.evolve import evolve

    with EvolveDisplay() as display:
        try:
            evolve(recipe, display, founders=founders, fresh=fresh, max_hours=max_hours)
        except Interrupted as error:
            if display.folder is not None and (founders or fresh):  # the same command would start another run
                error.resume_command = shlex.join(["cycleqd-merge", "evolve", display.folder])
            raise
