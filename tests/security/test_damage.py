"""Damaged journals and caches: reported with file and line, or rebuilt; never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison
from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.errors import RunFailed, UserError
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, read_events
from cycleqd_merge.journal.measured import Estimate, measured_event
from cycleqd_merge.run.state import open_run
from tests.journal.unsealed import unsealed
from tests.run.synthetic import run, session_of, start_of, synthetic_recipe
from tests.security.attacks import Attack, cases
from tests.security.forked import outcome_of

Change = Callable[[Event], object]
LINE = "one line with the journal's path and line number"
START, SESSION, RESULT, BOUNDS, CHILD, CONFIRM, MEASURED = 1, 2, 3, 6, 8, 13, 14
"""Line numbers in the journal that `whole` writes."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an event of every kind; its last line is a measured model."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, synthetic_recipe(6), in_flight=2)
    scores = {task: Estimate.of([0.0, 1.0, 1.0]) for task in done.tasks}
    with closing(Journal(folder)) as journal:
        journal.append({"event": "confirm", "number": done.elites()[-1], "scores": [0.5, 0.25, 0.125]})
        journal.append(measured_event("expert:sql", expert_genome(0, 3, 1), "heldout", scores))
    assert len(read_events(folder)) == MEASURED
    open_run(folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, whose journal may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


def written(folder: Path, events: list[Event]) -> Path:
    """Write events as somebody without this package does: without checksums, as versions before 0.2 did."""
    path = folder / JOURNAL_FILE
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def with_text(text: str) -> Callable[[str], str]:
    """Puts a JSON text in the place of the text VALUE."""
    return lambda line: line.replace('"VALUE"', text)


def at(*path: Any, value: Any = "VALUE") -> Change:
    """Sets a value in an event."""

    def change(event: Event) -> None:
        part: Any = event
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return change


def without(*path: Any) -> Change:
    """Removes a value of an event."""

    def change(event: Event) -> None:
        part: Any = event
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]

    return change


DEEP = "[" * 600 + "]" * 600
DEEPER = '{"a":' * 100_000 + "1" + "}" * 100_000

GENOME = expert_genome(0, 3, 1).to_json()
MUTATION = {"kind": "svd", "seed": 5, "scale": 0.3, "expert": 1, "share": [1.0]}


def founders(**changes: Any) -> Change:
    """Gives the start a founder whose genome is changed."""
    founder = {"genome": {**GENOME, "mutations": [MUTATION], **changes}, "scores": {}, "from": 1}
    return at("seeds", value=[founder])


def mutated(**changes: Any) -> Change:
    """Gives the start a founder whose mutation is changed."""
    return founders(mutations=[{**MUTATION, **changes}])


def evolution(**settings: Any) -> Change:
    """Changes the recorded recipe's `evolution`."""
    return lambda event: event["recipe"]["evolution"].update(settings)


def bins_of_all_tasks(event: Event) -> None:
    """Gives every task as many bins as VALUE."""
    for use in event["recipe"]["tasks"]:
        use["bins"] = "VALUE"


# name: (line, change, JSON text in the place of VALUE)
DAMAGED_EVENTS: dict[str, tuple[int, Change, str]] = {
    "scores as text": (RESULT, at("scores", 0), '"0.5"'),
    "a score of 10**400": (RESULT, at("scores", 0), "1" + "0" * 400),
    "a score of 5000 digits": (RESULT, at("scores", 0), "1" + "0" * 5000),
    "a score of 1e999": (RESULT, at("scores", 0), "1e999"),
    "a score of NaN": (CHILD, at("scores", 1), "NaN"),
    "a score of Infinity": (CHILD, at("scores", 1), "-Infinity"),
    "a score of true": (CHILD, at("scores", 1), "true"),
    "a score of null": (CHILD, at("scores", 1), "null"),
    "a score of 2": (CHILD, at("scores", 1), "2"),
    "a score of -1e300": (CHILD, at("scores", 1), "-1e300"),
    "scores as an object": (CHILD, at("scores"), '{"0":1,"1":1,"2":1}'),
    "scores as a text": (CHILD, at("scores"), '"abc"'),
    "scores nested deeply": (CHILD, at("scores"), DEEP),
    "scores nested 100,000 deep": (CHILD, at("scores"), DEEPER),
    "a result without scores": (CHILD, without("scores"), ""),
    "a result without number": (CHILD, without("number"), ""),
    "a number as text": (CHILD, at("number"), '"3"'),
    "a number with a fraction": (CHILD, at("number"), "4.0"),
    "a number of true": (RESULT + 1, at("number"), "true"),
    "a number of null": (CHILD, at("number"), "null"),
    "a number of 10**30": (CHILD, at("number"), "1" + "0" * 30),
    "a negative number": (CHILD, at("number"), "-1"),
    "a step of null": (CHILD, at("step"), "null"),
    "a step of a number": (CHILD, at("step"), "5"),
    "a step with half a surrogate pair": (CHILD, at("step", "kind"), '"\\ud800"'),
    "seconds as text": (CHILD, at("seconds"), '["fast"]'),
    "seconds of null inside": (CHILD, at("seconds"), "[null, 1]"),
    "seconds as a number": (CHILD, at("seconds"), "3"),
    "a key twice": (CHILD, at("scores"), '[0,0,0],"number":4'),
    "an event that is a list": (CHILD, at("event"), "[]"),
    "an event of null": (CHILD, at("event"), "null"),
    "an event of a number": (CHILD, at("event"), "3"),
    "partial scores as text": (CHILD, at("partial"), '"abc"'),
    "a censored child without rows": (CHILD, at("censored"), "true"),
    "a key with line breaks": (START, at("experts", "a\nerror: fake\r\x1b[2J"), "5"),
    "a censored text": (CHILD, at("censored"), '"yes"'),
    "an error that is an object": (CHILD, at("error"), "{}"),
    "a confirmation of no result": (CONFIRM, at("number"), "999"),
    "a confirmation without scores": (CONFIRM, without("scores"), ""),
    "confirmed scores of null": (CONFIRM, at("scores"), "[null,null,null]"),
    "a confirmed number of an object": (CONFIRM, at("number"), "{}"),
    "measured tasks of null": (MEASURED, at("tasks"), "null"),
    "measured tasks as a list": (MEASURED, at("tasks"), '["sql","bash","math"]'),
    "a measured score as text": (MEASURED, at("tasks", "sql", "score"), '"high"'),
    "a measured score with an unknown key": (MEASURED, at("tasks", "sql", "more"), "1"),
    "a measured score without samples": (MEASURED, without("tasks", "sql", "samples"), ""),
    "a measured candidate of a list": (MEASURED, at("candidate"), "[]"),
    "a measured split of an object": (MEASURED, at("rows"), "{}"),
    "measured samples of 0.5": (MEASURED, at("tasks", "sql", "samples"), "0.5"),
    "bounds of null": (BOUNDS, at("bounds"), "[null, null, null]"),
    "bounds as text": (BOUNDS, at("bounds"), '"abc"'),
    "no bounds": (BOUNDS, without("bounds"), ""),
    "a recipe of null": (SESSION, at("recipe"), "null"),
    "a recipe as a list": (SESSION, at("recipe"), "[]"),
    "no recipe": (SESSION, without("recipe"), ""),
    "a recipe without experts": (SESSION, without("recipe", "experts"), ""),
    "experts of a recipe as text": (SESSION, at("recipe", "experts"), '"sql"'),
    "tasks of a recipe as text": (SESSION, at("recipe", "tasks"), '"sql"'),
    "tasks of a recipe as numbers": (SESSION, at("recipe", "tasks"), "[1, 2, 3]"),
    "a task of null": (SESSION, at("recipe", "tasks", 0, "task"), "null"),
    "a role of a list": (SESSION, at("recipe", "tasks", 0, "role"), "[]"),
    "an evolution of null": (SESSION, at("recipe", "evolution"), "null"),
    "an engine as text": (SESSION, at("recipe", "engine"), '"vllm"'),
    "revisions of null": (SESSION, at("recipe", "revisions"), "null"),
    "revisions as a list": (SESSION, at("recipe", "revisions"), '["a"]'),
    "a folder of a number": (SESSION, at("folder"), "5"),
    "a folder of null": (SESSION, at("folder"), "null"),
    "bases as a list": (SESSION, at("bases"), "[]"),
    "a time of an object": (SESSION, at("time"), "{}"),
    "an engine's semantics as text": (SESSION, at("engine_semantics"), '"1"'),
    "1e9 bins": (SESSION, evolution(bins="VALUE"), "1000000000"),
    "30,000 bins of each task": (SESSION, bins_of_all_tasks, "30000"),
    "10**18 bins of a task": (SESSION, at("recipe", "tasks", 0, "bins"), "1" + "0" * 18),
    "10**18 samples": (SESSION, at("recipe", "tasks", 0, "samples"), "1" + "0" * 18),
    "10**18 generations": (SESSION, evolution(generations="VALUE"), "1" + "0" * 18),
    "bounds of 1e308": (SESSION, at("recipe", "tasks", 0, "bounds"), "[-1e308, 1e308]"),
    "a seed of 10**400": (SESSION, evolution(seed="VALUE"), "1" + "0" * 400),
    "a standard deviation of 1e308": (SESSION, evolution(sigma="VALUE"), "1e308"),
    "experts of null": (START, at("experts"), "null"),
    "experts as a list": (START, at("experts"), '["sql","bash","math"]'),
    "no experts": (START, without("experts"), ""),
    "a digest of a number": (START, at("experts", "sql"), "1"),
    "groups of null": (START, at("groups"), "null"),
    "no groups": (START, without("groups"), ""),
    "an empty list of groups": (START, at("groups"), "[]"),
    "groups of numbers": (START, at("groups"), "[1]"),
    "in_flight of 0": (START, at("in_flight"), "0"),
    "in_flight as text": (START, at("in_flight"), '"2"'),
    "in_flight of true": (START, at("in_flight"), "true"),
    "in_flight of 10**12": (START, at("in_flight"), "1" + "0" * 12),
    "no in_flight": (START, without("in_flight"), ""),
    "tasks as a list": (START, at("tasks"), '["sql","bash","math"]'),
    "a task's rows as text": (START, at("tasks", "sql", "rows"), '"many"'),
    "a task's rows of null": (START, at("tasks", "sql", "rows", "search"), "null"),
    "a task's rows of 0": (START, at("tasks", "sql", "rows"), '{"search":0,"confirm":0}'),
    "a task's semantics as text": (START, at("tasks", "sql", "semantics"), '"new"'),
    "founders of null": (START, at("seeds"), "[null]"),
    "founders of a number": (START, at("seeds"), "5"),
    "a founder without genome": (START, at("seeds"), '[{"scores":{}}]'),
    "a founder's format": (START, founders(format="VALUE"), "2"),
    "a founder's coefficients as text": (START, founders(coefficients="VALUE"), '[["1"],["0"],["0"]]'),
    "a founder's coefficients, ragged": (START, founders(coefficients="VALUE"), "[[1.0],[0.0,1.0],[]]"),
    "a founder's coefficients of NaN": (START, founders(coefficients="VALUE"), "[[NaN],[0],[0]]"),
    "a founder's coefficients of 1e308": (START, founders(coefficients="VALUE"), "[[1e308],[0],[0]]"),
    "a founder's coefficients in three dimensions": (START, founders(coefficients="VALUE"), "[[[1]],[[0]],[[0]]]"),
    "a founder's coefficients of true": (START, founders(coefficients="VALUE"), "[[true],[false],[false]]"),
    "a founder's mutations of null": (START, founders(mutations="VALUE"), "null"),
    "a founder's seed of 10**18 and a half": (START, mutated(seed="VALUE"), "1e18"),
    "a founder's seed of 10**19": (START, mutated(seed="VALUE"), "1" + "0" * 19),
    "a founder's seed below 0": (START, mutated(seed="VALUE"), "-5"),
    "a founder's scale as text": (START, mutated(scale="VALUE"), '"0.3"'),
    "a founder's kind": (START, mutated(kind="VALUE"), '"exec"'),
    "a founder's expert as text": (START, mutated(expert="VALUE"), '"1"'),
    "a founder's expert of true": (START, mutated(expert="VALUE"), "true"),
    "a founder's share as a number": (START, mutated(share="VALUE"), "1.0"),
    "a founder's share of another length": (START, mutated(share="VALUE"), "[1.0, 1.0]"),
    "a founder's scores as a list": (START, at("seeds"), json.dumps([{"genome": GENOME, "scores": [1.0]}])),
    "a founder's scores as text": (START, at("seeds"), json.dumps([{"genome": GENOME, "scores": {"sql": "1"}}])),
    "a base of a number": (START, at("base"), "7"),
    "a format of true": (START, at("format"), "true"),
    "a strategy as text": (START, at("strategy"), '"cycleqd"'),
    "a start that is a session": (START, at("event"), '"session"'),
}


def flip(place: int, bit: int) -> Callable[[bytes], bytes]:
    """Flips a bit; places below 0 count from the end."""

    def damage(data: bytes) -> bytes:
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

    return damage


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def in_last_score(data: bytes) -> bytes:
    """A digit of the last line's score becomes another digit."""
    at = data.rindex(b'"score":0.6') + len(b'"score":0.')
    return data[:at] + b"7" + data[at + 1 :]


# name: (damage of the bytes, line in the message)
DAMAGED_BYTES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "a digit of a score": (lambda data: data.replace(b'"scores":[0.5,0.25,', b'"scores":[0.5,0.75,'), CONFIRM),
    "a digit of the last line": (in_last_score, MEASURED),
    "a space in the last line": (lambda data: data[:-2] + b" " + data[-2:], MEASURED),
    "the last line's newline": (flip(-1, 3), MEASURED),
    "a newline in the middle": (lines(lambda each: [*each[:7], each[7][:-1] + b" ", *each[8:]]), CHILD),
    "one list of all lines": (lambda data: b"[" + data[:-1].replace(b"\n", b",") + b"]", 1),
    "a line lost": (lines(lambda each: [*each[:5], *each[6:]]), BOUNDS),
    "a confirmation lost": (lines(lambda each: [*each[:12], *each[13:]]), CONFIRM),
    "a line twice": (lines(lambda each: [*each[:13], *each[12:]]), MEASURED),
    "two lines swapped": (lines(lambda each: [*each[:12], each[13], each[12]]), CONFIRM),
    "zeros in the middle": (lines(lambda each: [*each[:7], b"\0" * len(each[7][:-1]) + b"\n", *each[8:]]), CHILD),
    "a line cut short in the middle": (lines(lambda each: [*each[:7], each[7][:20], *each[8:]]), CHILD),
    "the first line lost": (lines(lambda each: each[1:]), 1),
    "a session's recipe of another run": (
        lambda data: data.replace(b'"generations":6', b'"generations":5', 1),
        SESSION,
    ),
    "not UTF-8": (lambda data: data.replace(b"expert:sql", b"expert:\xff\xfe\xfd", 1), MEASURED),
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, 1),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), 1),
}

# name: what a power failure or a kill leaves of the last line, or another version writes; it is read
TOLERATED: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "the last line cut off": (lambda data: data[:-20], MEASURED - 1),
    "the last line without its newline": (lambda data: data[:-1], MEASURED - 1),
    "a tail of zeros": (lambda data: data + b"\0" * 4096, MEASURED),
    "a last line that is zeros": (lambda data: data[: data.rindex(b"\n", 0, -1) + 1] + b"\0" * 300, MEASURED - 1),
    "a last line that ends in zeros": (lambda data: data[:-30] + b"\0" * 30, MEASURED - 1),
    "a last line whose first block is zeros": (
        lambda data: data[: data.rindex(b"\n", 0, -1) + 1] + b"\0" * 40 + data[-30:],
        MEASURED - 1,
    ),
    "zeros in the place of the last newline": (lambda data: data[:-1] + b"\0", MEASURED - 1),
    "carriage returns": (lambda data: data.replace(b"\n", b"\r\n"), MEASURED),
    "no checksums": (lambda data: unsealed(data.decode()).encode(), MEASURED),
    "no checksums in the first half": (
        lambda data: unsealed(data[:2000].decode()).encode() + data[2000:],
        MEASURED,
    ),
    "no checksum in the last line": (
        lines(lambda each: [*each[:-1], unsealed(each[-1].decode()).encode()]),
        MEASURED,
    ),
    "lines formatted by another program": (
        lines(lambda each: [json.dumps(json.loads(line)).encode() + b"\n" for line in each]),
        MEASURED,
    ),
    "an unknown kind of event": (
        lambda data: unsealed(data.decode()).encode() + b'{"event":"applause","of":"all"}\n',
        MEASURED + 1,
    ),
    "an unknown key": (
        lambda data: unsealed(data.decode()).replace('"number":', '"mood":"good","number":').encode(),
        14,
    ),
}

# name: settings that would take gigabytes or overflow, in a recipe
HUGE: dict[str, dict[str, Any]] = {
    "bins: 1e9": {"evolution": {"bins": 1e9}},
    "bins: 10**18": {"evolution": {"bins": 10**18}},
    "bins: 10**400": {"evolution": {"bins": 10**400}},
    "generations: 10**18": {"evolution": {"generations": 10**18}},
    "in_flight: 10**9": {"evolution": {"in_flight": 10**9}},
    "seed: 10**400": {"evolution": {"seed": 10**400}},
    "sigma: 1e308": {"evolution": {"sigma": 1e308}},
    "w_max: 1e308": {"evolution": {"mutation": {"w_max": 1e308}}},
    "scaling to 1e308": {"evolution": {"scaling": [1.0, 1e308]}},
    "warm starts of 1e308": {"evolution": {"warm_start": [1e308]}},
    "a population of 10**9": {"strategy": {"kind": "cma-es", "population": 10**9}},
    "a range to 1e308": {"strategy": {"kind": "random", "high": 1e308}},
    "workers: 10**9": {"workers": 10**9},
    "samples: 10**18": {"tasks": [{"task": "sql", "samples": 10**18}, {"task": "bash"}]},
    "bounds of 1e308": {"tasks": [{"task": "sql", "bounds": [0.0, 1e308]}, {"task": "bash"}]},
    "bins of a task": {"tasks": [{"task": "sql", "bins": 10**12}, {"task": "bash"}]},
    "a list nested deeply": {"evolution": {"warm_start": json.loads("[" * 300 + "]" * 300)}},
    "recipe of a list": {"base": ["a"] * 1000},
}

COMPARISONS = {
    "empty": "",
    "cut short": '{"format": 1, "tasks": ["a"',
    "a list": "[]",
    "null": "null",
    "a number": "1e999",
    "nested deeply": "[" * 100_000,
    "zeros": "\0" * 500,
    "format of true": '{"format": true}',
    "no models": '{"format": 1, "tasks": [], "kept": [], "rows": {}, "reference": "x", "entrants": [], "searches": [], '
    '"opened": {"at": "", "frozen": {}}}',
}

ATTACKS = [
    *(
        Attack("damaged journal", f"a journal with {name}", "read without what never counted", name)
        for name in TOLERATED
    ),
    *(Attack("no limit", f"a recipe with {name}", "refused before memory is taken", name) for name in HUGE),
    *(Attack("damaged comparison", f"comparison.json: {name}", "one line", name) for name in COMPARISONS),
    Attack("damaged journal", "every bit of the last lines flipped", LINE, "bits"),
    Attack("no limit", "a journal with a million groups of tensors", "one line, before memory is taken", "groups"),
    Attack("damaged journal", "an event with an infinite number is never written", "RunFailed", "infinite"),
    Attack("damaged journal", "an event with half a surrogate pair is written so that it can be read", "read", "half"),
    *(Attack("damaged journal", f"a journal's event with {name}", LINE, name) for name in DAMAGED_EVENTS),
    *(Attack("damaged journal", f"a journal with damaged bytes: {name}", LINE, name) for name in DAMAGED_BYTES),
]


def of(kind: str, given: Any) -> list[Any]:
    return cases(each for each in ATTACKS if each.kind == kind and each.given in given)


def assert_names(outcome: Any, start: str) -> None:
    """The outcome is an error of one line that starts so."""
    assert outcome is not None, "believed"
    kind, text = outcome
    assert kind == "UserError", f"{kind}: {text}"
    assert text.startswith(start), text
    assert len(text.splitlines()) == 1
    assert len(text) < 500
    text.encode()


@pytest.mark.parametrize("attack", of("damaged journal", DAMAGED_EVENTS))
def test_a_damaged_event_is_named_by_its_line(attack: Attack, copied: Path) -> None:
    line, change, text = DAMAGED_EVENTS[attack.given]
    events = read_events(copied)
    change(events[line - 1])
    path = written(copied, events)
    path.write_text(path.read_text().replace('"VALUE"', text))
    outcome = outcome_of(lambda: shown(copied))
    place = path if line == SESSION else f"{path}:{line}: "  # of a recipe, the message names the key
    assert_names(outcome, f"{place}")


def shown(folder: Path) -> None:
    """Everything that looking at a run computes."""
    from cycleqd_merge.report.summary import summary

    opened = open_run(folder)
    summary(opened)
    for archive in opened.archives:
        archive.heatmap()
    opened.best_mean()


@pytest.mark.parametrize("attack", of("damaged journal", DAMAGED_BYTES))
def test_damaged_bytes_are_named_by_their_line(attack: Attack, copied: Path) -> None:
    damage, line = DAMAGED_BYTES[attack.given]
    path = copied / JOURNAL_FILE
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    for opened in (lambda: open_run(copied), lambda: Journal(copied)):
        assert_names(outcome_of(opened), f"{path}:{line}: ")


@pytest.mark.parametrize("attack", of("damaged journal", TOLERATED))
def test_what_never_counted_is_dropped(attack: Attack, copied: Path) -> None:
    damage, count = TOLERATED[attack.given]
    path = copied / JOURNAL_FILE
    whole = read_events(copied)
    path.write_bytes(damage(path.read_bytes()))
    found = read_events(copied)
    assert len(found) == count
    if attack.given not in ("an unknown kind of event", "an unknown key"):
        assert found == whole[:count]
    open_run(copied)
    with closing(Journal(copied)) as journal:
        journal.append(whole[-1])
    assert read_events(copied) == [*found, whole[-1]]
    open_run(copied)


def test_a_flipped_bit_is_never_believed(copied: Path) -> None:
    path = copied / JOURNAL_FILE
    data = path.read_bytes()
    for line in (MEASURED, CONFIRM, CHILD):
        start = sum(map(len, data.splitlines(keepends=True)[: line - 1]))
        for place in range(start, start + len(data.splitlines(keepends=True)[line - 1])):
            path.write_bytes(flip(place, place % 8)(data))
            with pytest.raises(UserError, match=rf":{line}: "):
                read_events(copied)


@pytest.mark.parametrize("attack", of("no limit", HUGE))
def test_a_recipe_with_huge_numbers_is_refused(attack: Attack, tmp_path: Path) -> None:
    stated = synthetic_recipe().model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**stated, **HUGE[attack.given]}))
    outcome = outcome_of(lambda: load_recipe(path))
    assert outcome is not None, "accepted"
    kind, text = outcome
    assert kind == "UserError", text
    assert all(line.startswith(str(path)) and len(line) < 300 for line in text.splitlines())


@pytest.mark.parametrize("attack", of("damaged comparison", COMPARISONS))
def test_a_damaged_comparison_is_named(attack: Attack, tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(COMPARISONS[attack.given])
    assert_names(outcome_of(lambda: open_run_or_comparison(tmp_path)), f"{path}: ")


def test_a_million_groups_are_refused(tmp_path: Path) -> None:
    recipe = synthetic_recipe(strategy={"kind": "random"}, evolution={"in_flight": 1000})
    start = {**start_of(recipe, 1000), "groups": ["a"] * 1_000_000}
    path = written(tmp_path, [start, session_of(recipe)])
    assert_names(outcome_of(lambda: open_run(tmp_path)), f"{path}:1: ")


def test_an_infinite_number_is_never_written(copied: Path) -> None:
    before = (copied / JOURNAL_FILE).read_bytes()
    with closing(Journal(copied)) as journal:
        for value in (float("inf"), float("nan"), 10**400, object()):
            with pytest.raises(RunFailed):
                journal.append({"event": "result", "number": 9, "step": {"x": value}, "scores": None})
    assert (copied / JOURNAL_FILE).read_bytes() == before


def test_half_a_surrogate_pair_is_replaced(copied: Path) -> None:
    with closing(Journal(copied)) as journal:
        journal.append({"event": "note", "text": "caf\udce9 \U0001f600"})
    assert read_events(copied)[-1] == {"event": "note", "text": "caf? \U0001f600"}
