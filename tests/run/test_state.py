"""A run read back from its journal equals the original run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import Interrupted, UserError
from cycleqd_merge.journal.log import JOURNAL_FILE
from cycleqd_merge.report.summary import history, summary
from cycleqd_merge.run.state import Run, open_run
from tests.evolution.references import snapshot
from tests.run.synthetic import EXPERTS, SyntheticPool, Watcher, run, synthetic_recipe

Line = dict[str, Any]


def state_of(run: Run) -> dict[str, Any]:
    """The whole state of a run, as plain values."""
    return {
        "archives": snapshot(run.archives),
        "bounds": run.search.bounds,
        "steps": run.steps,
        "results": run.results,
        "genomes": [run.search.genome(number) for number in range(len(run.steps))],
        "open": [(proposal.number, proposal.candidate) for proposal in run.open],
    }


@pytest.mark.parametrize("in_flight", [1, 4])
def test_replay_equals_the_run_that_was_lived(tmp_path: Path, in_flight: int) -> None:
    lived = run(tmp_path, synthetic_recipe(40), in_flight, SyntheticPool(order=3, failure=fail_some))
    state = open_run(tmp_path)
    assert state_of(state) == state_of(lived)
    assert state.generation == 40
    assert sum(len(archive.elites()) for archive in state.archives) > 10


COARSE = [{"task": name, "expert": name, "bins": 2} for name in EXPERTS]
OPTIONS = {
    "scaling": [1.0, 1.6],
    "mates": "any",
    "adaptive": True,
    "warm_start": [0.3, 0.5],
    "mutation": {"kind": "svd", "signed": True},
}
RACE = {"race": {"share": 0.25, "confidence": 0.9}}


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(
    ("strategy", "race"),
    [
        ({"kind": "cycleqd"}, RACE),
        ({"kind": "cma-me", "bred": 0.4, "population": 4}, {}),
        ({"kind": "bayesian", "bred": 0.4}, {}),
        ({"kind": "bayesian", "bred": 0.4, "noise": "rows"}, RACE),
    ],
)
def test_replay_and_going_on_equal_the_run_with_every_option(
    tmp_path: Path, strategy: dict[str, Any], race: dict[str, Any], in_flight: int
) -> None:
    def recipe(generations: int) -> Recipe:
        return synthetic_recipe(generations, tasks=COARSE, strategy=strategy, evolution={**OPTIONS, **race})

    whole = run(tmp_path / "whole", recipe(60), in_flight, SyntheticPool(order=3, failure=fail_some))
    assert state_of(open_run(tmp_path / "whole")) == state_of(whole)
    censored = [event for event in whole.results if event.get("censored")]
    facts = summary(whole)
    assert facts["censored"] == len(censored)
    assert bool(censored) == bool(race)
    assert (facts["rows_saved"] or 0) == pytest.approx(0.75 * len(censored) / (63 - facts["failed"]))
    assert not {event["number"] for event in censored} & set(whole.elites())
    for generations in (1, 23, 60):
        extended = run(
            tmp_path / "parts", recipe(generations), in_flight, SyntheticPool(generations, failure=fail_some)
        )
    assert snapshot(extended.archives) == snapshot(whole.archives)
    assert extended.steps == whole.steps


def fail_some(number: int) -> str | None:
    return "out of memory" if number % 7 == 5 else None


@pytest.mark.parametrize("last", [0, 1, 2, 3, 17])
def test_replay_of_an_unfinished_run_knows_what_is_in_flight(tmp_path: Path, last: int) -> None:
    def stop(number: int) -> None:
        if number == last:
            raise Interrupted

    lived: list[Run] = []
    watcher = Watcher(stop)
    watcher.started = lived.append  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run(tmp_path, in_flight=4, watcher=watcher)
    state = open_run(tmp_path)
    assert state_of(state) == state_of(lived[0])
    assert state.generation == max(0, last - 2)


def rewrite(folder: Path, change: Callable[[list[Line]], object]) -> None:
    """Change the lines of a journal."""
    path = folder / JOURNAL_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_weight(line: Line) -> None:
    line["step"]["weights"][0][0] += 1e-12


def change_parent(line: Line) -> None:
    line["step"]["parents"][0] += 1


def change_seed(line: Line) -> None:
    line["step"]["mutation"]["seed"] += 1


def change_kind(line: Line) -> None:
    line["step"] = {"expert": 0}


@pytest.mark.parametrize("tamper", [change_weight, change_parent, change_seed, change_kind])
def test_a_child_that_would_not_be_proposed_is_refused(tmp_path: Path, tamper: Callable[[Line], None]) -> None:
    run(tmp_path)
    rewrite(tmp_path, lambda lines: tamper(lines[11]))
    with pytest.raises(UserError, match=f"{JOURNAL_FILE}:12: replay mismatch: this version proposes a different child"):
        open_run(tmp_path)


def breed(line: Line) -> None:
    line["step"] = {"parents": [0, 1], "weights": [[1.0], [1.0]]}


def change_aim(line: Line) -> None:
    line["step"]["aim"] = "front" if line["step"]["aim"] == "mean" else "mean"


def no_step(line: Line) -> None:
    line["step"] = None


def fewer_experts(line: Line) -> None:
    del line["step"]["coefficients"][0]


def more_digits(line: Line) -> None:
    line["step"]["coefficients"][0][0] += 1e-9


@pytest.mark.parametrize("tamper", [breed, change_kind, change_aim, no_step, fewer_experts, more_digits])
def test_so_is_one_that_no_machine_would_propose(tmp_path: Path, tamper: Callable[[Line], None]) -> None:
    run(tmp_path, synthetic_recipe(strategy={"kind": "bayesian"}))
    rewrite(tmp_path, lambda lines: tamper(lines[11]))
    with pytest.raises(UserError, match=f"{JOURNAL_FILE}:12: replay mismatch: this version proposes a different child"):
        open_run(tmp_path)


def test_an_expert_is_not_replaced_by_what_a_journal_says(tmp_path: Path) -> None:
    run(tmp_path, synthetic_recipe(strategy={"kind": "bayesian"}))

    def replace(lines: list[Line]) -> None:
        number = next(number for number, line in enumerate(lines) if line["event"] == "result")
        lines[number]["step"] = {"coefficients": [[0.5], [0.5], [0.5]], "aim": "mean"}

    rewrite(tmp_path, replace)
    with pytest.raises(UserError, match="replay mismatch: this version proposes a different child"):
        open_run(tmp_path)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"kind": "cma-es", "population": 5}, {"sigma": 0.201}),
        ({"kind": "cma-me", "population": 5, "bred": 0.3}, {"sigma": 0.201}),
        ({"kind": "bayesian", "bred": 0.3}, {"optimism": 1.01}),
    ],
)
def test_a_run_of_another_machine_is_read_and_resumed(
    tmp_path: Path, here: dict[str, Any], there: dict[str, Any], in_flight: int
) -> None:
    """Another machine's linear algebra gives slightly different coefficients, as a different setting does here."""

    def recipe(generations: int, **other: Any) -> Recipe:
        return synthetic_recipe(generations, strategy=here | other)

    made = run(tmp_path / "there", recipe(30, **there), in_flight)
    assert made.steps != run(tmp_path / "here", recipe(30), in_flight).steps

    def move(lines: list[Line]) -> None:
        for line in lines:
            if line["event"] == "session":
                line["recipe"]["strategy"] = here
            elif line["event"] == "start":
                line["strategy"] = recipe(30).strategy.model_dump(mode="json")

    rewrite(tmp_path / "there", move)
    assert state_of(open_run(tmp_path / "there")) == state_of(made)
    assert history(open_run(tmp_path / "there")) == history(made)
    longer = run(tmp_path / "there", recipe(40), in_flight)
    assert longer.steps[:33] == made.steps
    assert len(longer.results) == 43
    assert state_of(open_run(tmp_path / "there")) == state_of(longer)


def test_changed_scores_show_in_a_child_that_follows(tmp_path: Path) -> None:
    run(tmp_path, synthetic_recipe(40))

    def flip(lines: list[Line]) -> None:
        lines[8]["scores"] = [0.999, 0.999, 0.999]

    rewrite(tmp_path, flip)
    with pytest.raises(UserError, match=r":\d+: replay mismatch: this version proposes a different child") as raised:
        open_run(tmp_path)
    assert int(str(raised.value).split(":")[1]) > 9


def drop(lines: list[Line]) -> None:
    del lines[11]


def repeat(lines: list[Line]) -> None:
    lines.insert(11, lines[10])


def swap(lines: list[Line]) -> None:
    lines[11], lines[12] = lines[12], lines[11]


def shorten(lines: list[Line]) -> None:
    lines[11]["scores"] = lines[11]["scores"][:2]


@pytest.mark.parametrize("damage", [drop, repeat, swap, shorten])
def test_results_out_of_order_or_shape_are_refused(tmp_path: Path, damage: Callable[[list[Line]], None]) -> None:
    run(tmp_path)
    rewrite(tmp_path, damage)
    with pytest.raises(UserError, match=f"{JOURNAL_FILE}:12: damaged"):
        open_run(tmp_path)


def test_a_run_that_never_began_is_named(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_text('{"event":"start","format":1}\n')
    with pytest.raises(UserError, match="not a run directory, or its run never started"):
        open_run(tmp_path)
