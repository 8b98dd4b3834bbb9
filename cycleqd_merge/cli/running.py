"""Commands that work on a run: `evolve`, `fork`, `plan` and `confirm`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cycleqd_merge.cli.options import Generations, Json, MaxHours, Output, RecipeOrRun, RunFolder, Settings
from cycleqd_merge.cli.printing import console, print_confirmed, print_json
from cycleqd_merge.errors import RecipeError

if TYPE_CHECKING:
    from cycleqd_merge.config.recipe import Recipe


def evolve(
    recipe: RecipeOrRun,
    settings: Settings = None,
    generations: Generations = None,
    output: Output = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew beside a run that is there.")] = False,
    max_hours: MaxHours = None,
) -> None:
    """Evolve a recipe: begin a run, or go on with the one in its output directory."""
    _evolve(_recipe_or_run(recipe, _overrides(settings, generations, output)), max_hours, fresh=fresh)


def fork(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="Directory of the new run.", show_default=False)],
    settings: Settings = None,
    max_hours: MaxHours = None,
    rescore: Annotated[bool, typer.Option("--rescore", help="Keep no scores: score every elite again.")] = False,
) -> None:
    """Start a run from another's archives, with other operators or tasks; scores of unchanged tasks are kept."""
    from cycleqd_merge.session.fork import fork as fork_run

    recipe, founders = fork_run(run, out, settings or [], rescore)
    _evolve(recipe, max_hours, founders)


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
    loaded = _recipe_or_run(recipe, _overrides(settings, generations, output))  # before the imports, which take seconds
    from cycleqd_merge.preflight.plan import plan as make_plan
    from cycleqd_merge.report.plan import plan_report

    found = make_plan(loaded, measure, since)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(plan_report(found))
    if found.faults:
        raise RecipeError("\n".join(found.faults))


def confirm(
    run: RunFolder,
    top: Annotated[int | None, typer.Option(min=1, help="Elites to score again, instead of the recipe's.")] = None,
) -> None:
    """Score the top elites of a run again on the rows set aside for it, and choose by both scores."""
    from cycleqd_merge.session.search import confirm_elites

    print_confirmed(confirm_elites(run, top))


def _overrides(settings: list[str] | None, generations: int | None, output: str | None) -> list[str]:
    """The options that stand for keys of the recipe, with those of `--set`."""
    overrides = [*(settings or [])]
    if generations is not None:
        overrides.append(f"evolution.generations={generations}")
    if output is not None:
        overrides.append(f"output={json.dumps(output)}")
    return overrides


def _recipe_or_run(path: Path, overrides: list[str]) -> Recipe:
    """The recipe in a file, or that of a run directory."""
    from cycleqd_merge.config.loading import load_recipe, override_recipe

    if path.is_dir():
        from cycleqd_merge.run.state import open_run

        here = [f"output={json.dumps(str(path))}", *overrides]
        return override_recipe(open_run(path).recipe, here, f"recipe of {path}")
    return load_recipe(path, overrides)


def _evolve(
    recipe: Recipe, max_hours: float | None, founders: Sequence[dict[str, Any]] = (), fresh: bool = False
) -> None:
    from cycleqd_merge.cli.display import Display
    from cycleqd_merge.session.evolve import evolve as evolve_recipe

    with Display(console()) as display:
        evolve_recipe(recipe, display, founders=founders, fresh=fresh, max_hours=max_hours)
