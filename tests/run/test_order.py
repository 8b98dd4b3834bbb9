"""The order of experts and tasks: genomes and scores go by position, so a run is never read or resumed in another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, read_events
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.run.tables import evaluations
from tests.run.synthetic import EXPERTS, SyntheticPool, run, session_of, synthetic_recipe
from tests.run.test_state import COARSE, RACE, rewrite, state_of

Settings = dict[str, Any]
STRATEGIES: dict[str, Settings] = {
    "cycleqd": {},
    "map-elites": {"evolution": {"cycling": False}},
    "own experts": {"tasks": [{"task": name} for name in EXPERTS]},
    "gaussian": {"evolution": {"mutation": {"kind": "gaussian"}}},
    "racing": {"tasks": COARSE, "evolution": {**RACE, "warm_start": [0.3]}},
    "random": {"strategy": {"kind": "random"}},
    "cma-es": {"strategy": {"kind": "cma-es", "population": 4}},
    "cma-es weighted": {"strategy": {"kind": "cma-es", "population": 4, "weights": {"sql": 2, "bash": 1}}},
    "cma-me": {"strategy": {"kind": "cma-me", "population": 4, "bred": 0.4}},
    "bayesian": {"strategy": {"kind": "bayesian", "bred": 0.4}},
    "nsga2": {"strategy": {"kind": "nsga2", "population": 4}},
    "mergekit": {"strategy": {"kind": "mergekit", "methods": ["linear", "slerp", "ties"]}},
    "python": {
        "strategy": {
            "kind": "python",
            "target": "cycleqd_merge.strategies.optimisers:RandomSearch",
            "options": {"low": 0.0, "high": 1.0},
        }
    },
}
OTHER = ("math", "sql", "bash")
KEPT = [{"task": "chat", "role": "keep"}, {"task": "facts", "role": "keep", "floor": 0.1}]


def reordered(recipe: Recipe, experts: Sequence[str] = EXPERTS, tasks: Sequence[str] | None = None) -> Recipe:
    """The recipe with its experts, and its tasks, in another order."""
    named = {use.name or str(use.task): use for use in recipe.tasks}
    return recipe.model_copy(
        update={
            "experts": {name: recipe.experts[name] for name in experts},
            "tasks": [named[name] for name in tasks or named],
        }
    )


@pytest.mark.parametrize("results", [0, 9])
@pytest.mark.parametrize("name", STRATEGIES)
def test_another_order_is_refused_for_every_strategy(tmp_path: Path, name: str, results: int) -> None:
    recipe, pool = synthetic_recipe(results, **STRATEGIES[name]), SyntheticPool()
    run(tmp_path, recipe, pool=pool)
    before, evaluated = (tmp_path / JOURNAL_FILE).read_bytes(), len(pool.submitted)
    for experts, tasks, lines in (
        (OTHER, EXPERTS, ["experts"]),
        (EXPERTS, OTHER, ["tasks"]),
        (OTHER, OTHER, ["experts", "tasks"]),
    ):
        longer = reordered(synthetic_recipe(results + 5, **STRATEGIES[name]), experts, tasks)
        with pytest.raises(UserError) as raised:
            run(tmp_path, longer, pool=pool)
        first, *rest = str(raised.value).splitlines()
        assert first == (
            f"{tmp_path}: contains a different run; --fresh starts a new one next to it; "
            "restore the recorded order to resume this one. Differences:"
        )
        assert rest == [f"  order of {what}: sql, bash, math -> math, sql, bash" for what in lines]
    assert (tmp_path / JOURNAL_FILE).read_bytes() == before
    assert len(pool.submitted) == evaluated
    longer = run(tmp_path, synthetic_recipe(results + 2, **STRATEGIES[name]))
    assert len(longer.results) == len(EXPERTS) + min(results + 2, longer.generations)


@pytest.mark.parametrize(
    ("tasks", "resumes"),
    [
        (["chat", "sql", "bash", "facts", "math"], True),
        (["sql", "bash", "math", "chat", "facts"], True),
        (["sql", "bash", "math", "facts", "chat"], False),
        (["bash", "sql", "math", "chat", "facts"], False),
    ],
)
def test_the_order_of_scores_counts_and_nothing_else(tmp_path: Path, tasks: Sequence[str], resumes: bool) -> None:
    """Objectives come before tasks to keep, wherever the recipe has them."""

    def recipe(generations: int) -> Recipe:
        stated = [{"task": name, "expert": name} for name in EXPERTS]
        return synthetic_recipe(generations, tasks=[*stated, *KEPT])

    run(tmp_path / "one", recipe(4), pool=SyntheticPool(tasks=5))
    whole = run(tmp_path / "whole", recipe(8), pool=SyntheticPool(tasks=5))
    if not resumes:
        with pytest.raises(UserError, match="order of tasks: sql, bash, math, chat, facts -> "):
            run(tmp_path / "one", reordered(recipe(8), tasks=tasks), pool=SyntheticPool(tasks=5))
        return
    longer = run(tmp_path / "one", reordered(recipe(8), tasks=tasks), pool=SyntheticPool(tasks=5))
    assert state_of(longer)["genomes"] == state_of(whole)["genomes"]
    assert rows(open_run(tmp_path / "one")) == rows(whole)


def rows(run: Run) -> list[dict[str, Any]]:
    """All evaluations with their scores by name, without their times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in evaluations(run)]


def another_session(folder: Path, recipe: Recipe, *events: Event) -> None:
    """Append what an earlier version recorded when it accepted a reordered recipe."""
    with closing(Journal(folder)) as journal:
        for event in (session_of(recipe), *events):
            journal.append(event)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_journal_of_an_earlier_version_is_read_in_its_own_order(tmp_path: Path, name: str) -> None:
    """It accepted a reordered recipe once all children were evaluated: the scores are in the order of its start."""
    recipe = synthetic_recipe(9, **STRATEGIES[name])
    lived = run(tmp_path, recipe)
    score = {"score": 0.5, "error": 0.1, "samples": 4, "truncated": 0.0}
    measured = {"event": "measured", "name": "base", "candidate": "0123", "rows": "heldout"}
    another_session(tmp_path, reordered(recipe, OTHER, OTHER), {**measured, "tasks": dict.fromkeys(EXPERTS, score)})
    read = open_run(tmp_path)
    assert (read.experts, read.tasks) == (list(EXPERTS), list(EXPERTS))
    assert read.steps == lived.steps
    assert rows(read) == rows(lived)
    assert read.measured == {}  # of a model with other experts than its name says
    run(tmp_path, synthetic_recipe(11, **STRATEGIES[name]))
    whole = run(tmp_path / "whole", synthetic_recipe(11, **STRATEGIES[name]))
    assert rows(open_run(tmp_path)) == rows(whole)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "result", "number": 7, "step": {}, "scores": [0.1, 0.2, 0.3]},
        {"event": "confirm", "number": 0, "scores": [0.1, 0.2, 0.3]},
    ],
)
def test_scores_recorded_in_two_orders_are_refused(tmp_path: Path, event: Event) -> None:
    recipe = synthetic_recipe(4)
    run(tmp_path, recipe)
    another_session(tmp_path, reordered(recipe, OTHER), event)
    line = len(read_events(tmp_path))
    with pytest.raises(UserError) as raised:
        open_run(tmp_path)
    assert str(raised.value).startswith(
        f"{tmp_path / JOURNAL_FILE}:{line}: recorded after the recipe was reordered "
        "(order of experts: sql, bash, math -> math, sql, bash)"
    )


def test_a_recipe_with_other_names_than_the_journal_is_damage(tmp_path: Path) -> None:
    run(tmp_path)

    def rename(lines: list[Event]) -> None:
        lines[0]["experts"] = {f"old-{name}": digest for name, digest in lines[0]["experts"].items()}

    rewrite(tmp_path, rename)
    with pytest.raises(UserError, match="damaged: it names experts old-sql, old-bash, old-math"):
        open_run(tmp_path)


def too_short(key: str, kind: str) -> Callable[[list[Event]], None]:
    def change(lines: list[Event]) -> None:
        event = next(line for line in lines if line["event"] == kind and line.get(key))
        event[key] = event[key][:-1]

    return change


def unknown_task(lines: list[Event]) -> None:
    event = next(line for line in lines if line["event"] == "measured")
    event["tasks"]["art"] = event["tasks"].pop("sql")


def founder(**changes: Any) -> Callable[[list[Event]], None]:
    genome = {"format": 1, "coefficients": [[0.5], [0.5], [0.5]], "mutations": []}

    def change(lines: list[Event]) -> None:
        lines[0]["seeds"] = [{"genome": genome, "scores": {"sql": 0.5}, "from": 3, **changes}]

    return change


def genome(coefficients: Any, *mutations: Settings) -> Settings:
    return {"format": 1, "coefficients": coefficients, "mutations": list(mutations)}


FOREIGN = {"kind": "svd", "expert": 3, "seed": 1, "scale": 0.3, "share": [1.0]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (too_short("scores", "result"), "2 scores for 3 tasks"),
        (too_short("partial", "result"), "2 partial for 3 tasks"),
        (too_short("scores", "confirm"), "2 scores for 3 tasks"),
        (too_short("bounds", "bounds"), "2 bounds for 3 tasks"),
        (unknown_task, "scores of bash, math, art for tasks sql, bash, math"),
        (founder(genome=genome([[0.5], [0.5]])), "founder 0 has coefficients of 2 experts in 1 groups; the run has 3"),
        (founder(genome=genome([[0.5, 0.1]] * 3)), "founder 0 has coefficients of 3 experts in 2 groups"),
        (founder(genome=genome([[0.5]] * 3, FOREIGN)), "founder 0 has a mutation of an expert that the run lacks"),
        (founder(scores={"art": 0.5}), r"founder 0 has scores of tasks that the run lacks: \['art'\]"),
    ],
)
def test_values_by_position_are_checked_against_names(
    tmp_path: Path, damage: Callable[[list[Event]], None], message: str
) -> None:
    run(tmp_path, synthetic_recipe(60, tasks=COARSE, evolution=RACE))
    score = {"score": 0.5, "error": 0.1, "samples": 4, "truncated": 0.0}
    with closing(Journal(tmp_path)) as journal:
        journal.append({"event": "confirm", "number": 0, "scores": [0.1, 0.2, 0.3]})
        names = {"name": "base", "candidate": "0123", "rows": "heldout"}
        journal.append({"event": "measured", **names, "tasks": dict.fromkeys(EXPERTS, score)})
    open_run(tmp_path)
    rewrite(tmp_path, damage)
    with pytest.raises(UserError, match=f"damaged: {message}"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        (("experts",), True),
        (("tasks",), True),
        (("strategy", "grid"), True),
        (("strategy", "grid", "ties"), True),
        (("evolution",), False),
        (("models",), False),
        (("tasks", "one"), False),
        (("strategy", "options"), False),
        (("strategy", "weights"), False),
    ],
)
def test_order_counts_only_where_it_changes_the_run(path: tuple[str, ...], counts: bool) -> None:
    values: Event = {"one": {"x": 1, "y": 2}, "two": {"x": 3}, "three": {}}
    recorded, wanted = values, dict(sorted(values.items()))
    for key in reversed(path):
        recorded, wanted = {key: recorded}, {key: wanted}
    found = differences(recorded, wanted)
    assert found == ([f"order of {'.'.join(path)}: one, two, three -> one, three, two"] if counts else [])
    assert differences(recorded, json.loads(json.dumps(recorded))) == []
