"""Everything that strangers write is read within limits: recipes, task files, templates, patterns and answers.

The attacks run in a child process with limits of their own, so that an undefended one fails instead of the machine.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.bounded import Bounds, call
from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import Event
from tests.security.attacks import Attack, cases
from tests.tasks.scripted import Scripted, defined, write_rows

RECIPE = """\
base: a/base
experts: {one: a/one, two: a/two}
tasks:
- {task: t.yaml, name: one, expert: one}
- {task: t.yaml, name: two, expert: two}
output: out
"""
BOMB = "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x{i + 1}: &x{i + 1} [{', '.join([f'*x{i}'] * 10)}]\n" for i in range(8)
)
MERGES = "x0: &x0 {k: 1}\n" + "".join(
    f"x{i + 1}: &x{i + 1}\n  <<: [{', '.join([f'*x{i}'] * 10)}]\n  k{i}: 1\n" for i in range(9)
)
_LINE = "it is refused in one line with file and line, before values are made of it"
_FILES = {
    "aliases of aliases": (BOMB, r":5: more than 50,000 values"),
    "merge keys of merge keys": (MERGES, r":\d+: more than 50,000 values"),
    "a value in itself": ("x: &x [1, *x]\n", r":1: the alias \*x is inside its own value"),
    "a merge key in itself": ("x: &x\n  <<: *x\n", r":2: the alias \*x is inside its own value"),
    "lists in lists": ("x:\n  - " + "[" * 5000 + "]" * 5000 + "\n", r":2: nested too deeply"),
    "keys in keys": ("".join(f"{' ' * i}k:\n" for i in range(200)), r":10\d: nested too deeply"),
    "aliases that nest": (
        "x0: &x0 [1]\n" + "".join(f"x{i + 1}: &x{i + 1} [*x{i}]\n" for i in range(200)),
        r":\d+: nested too deeply",
    ),
    "a number of a million digits": (f"a: 1\nx: {'9' * 900_000}\n", r":2: a number of 900,000 characters"),
    "a hexadecimal number of a million digits": (f"x: 0x{'f' * 900_000}\n", r":1: a number of 900,002 characters"),
    "a file of ten megabytes": (f"x: '{'y' * 10_000_000}'\n", r": 10,000,006 characters; at most 1,048,576"),
}
FILES = [
    Attack("YAML", f"{attack}, in a {kind}", _LINE, (kind, *given))
    for attack, given in _FILES.items()
    for kind in ("recipe", "task file")
] + [
    Attack(
        "YAML", "aliases of aliases, in a file of lm-evaluation-harness", _LINE, ("lm_eval", BOMB, r":5: more than")
    ),
    Attack("YAML", "lists in lists, in --set", _LINE, ("setting", "[" * 5000, r"--set .*nested too deeply")),
    Attack(
        "YAML", "a number of a million digits, in --set", _LINE, ("setting", "9" * 100_000, r"--set .* a number of")
    ),
]

_TEMPLATE = "the row is refused in one line, at a limit of time or memory"
_LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [
    Attack("Jinja", "loops", _TEMPLATE, (_LOOP, "limit of CPU time")),
    Attack("Jinja", "lipsum", _TEMPLATE, ("{{ lipsum(n=10000000) }}", "limit of")),
    Attack("Jinja", "a long text", _TEMPLATE, ("{{ 'x' * 10 ** 10 }}", "limit of memory")),
    Attack("Jinja", "a long range", _TEMPLATE, ("{{ range(10 ** 9) | list }}", "Range too big")),
    Attack("Jinja", "format", _TEMPLATE, ("{{ '%9999999999d' % 1 }}", "limit of memory")),
    Attack("Jinja", "str.format", _TEMPLATE, ("{{ '{:>9999999999}'.format(1) }}", "limit of memory")),
    Attack(
        "Jinja", "a macro that calls itself", _TEMPLATE, ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deeply")
    ),
    Attack(
        "Jinja",
        "a cycler without end",
        _TEMPLATE,
        (_LOOP.replace("{% endfor", "{{ cycler(1).next() }}{% endfor"), "CPU"),
    ),
    Attack("Jinja", "slices", _TEMPLATE, ("{{ [1] | batch(10 ** 10, 0) | list }}", "limit of memory")),
    Attack("Jinja", "brackets", _TEMPLATE, ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "limit of depth")),
    Attack("Jinja", "a prompt of megabytes", _TEMPLATE, ("{{ 'x' * 30000000 }}", "limit of output")),
    Attack("Jinja", "a number of ten thousand digits", _TEMPLATE, ("{{ ('9' * 10000) | int }}", "is not a number")),
    Attack("Jinja", "a chat template with loops", _TEMPLATE, ("chat", _LOOP)),
]

_SLOW = "it is given up at a limit of CPU time, in a child process"
PATTERNS = [
    Attack("patterns", "a pattern of groups that backtracks", _SLOW, ("groups", r"(a+)+$", "patterns.*CPU time")),
    Attack(
        "patterns", "a pattern that takes minutes to compile", _SLOW, ("compiled", "|".join(["abc"] * 500_000), "CPU")
    ),
    Attack("patterns", "brackets in a pattern", "one line", ("compiled", "(" * 5000 + ")" * 5000, "recursion")),
    Attack("patterns", "a scorer's own pattern, before the run", _SLOW, ("own pattern", r"((?:a|a)+)b", "None|cannot")),
    Attack("patterns", "a text for a pattern of a gigabyte", _SLOW, ("known", "(((a{1000}){1000}){1000})", "empty")),
]
_SAME_HASH = "{" + ",".join(str(i * (2**61 - 1)) for i in range(60_000)) + "}"
_WRONG = "it scores 0 in little time"
ANSWERS = [
    Attack("answers", "a set of a million numbers", _WRONG, ("dbbench", "{" + ",".join(map(str, range(10**6))) + "}")),
    Attack("answers", "numbers with one hash", _WRONG, ("dbbench", _SAME_HASH)),
    Attack("answers", "a hundred thousand brackets", _WRONG, ("dbbench", "(" * 10**5 + ")" * 10**5)),
    Attack("answers", "a list of lists", _WRONG, ("dbbench", "[" * 80 + "]" * 80)),
    Attack("answers", "minus signs", _WRONG, ("dbbench", "[" + "-" * 10**6 + "1]")),
    Attack("answers", "an integer of a million digits", _WRONG, ("dbbench", "[" + "9" * 10**6 + "]")),
    Attack("answers", "an integer of five thousand digits", _WRONG, ("dbbench", "[" + "9" * 5000 + "]")),
    Attack("answers", "a power of a power", _WRONG, ("dbbench", "[10**10**10]")),
    Attack("answers", "an infinite number", _WRONG, ("dbbench", "[1e999999]")),
    Attack("answers", "a dictionary of lists", _WRONG, ("dbbench", "[{1: []}]")),
    Attack("answers", "half a character", _WRONG, ("dbbench", "['\ud800']")),
    Attack("answers", "actions without an end", _WRONG, ("statement", "Action: " * 500_000)),
    Attack("answers", "blocks without an end", _WRONG, ("statement", "Action: Operation\n" + " ```sql\n" * 500_000)),
    Attack("answers", "blocks of bash without an end", _WRONG, ("bash", "Act: bash\n" + " ```bash\n" * 500_000)),
    Attack("answers", "a number of a million digits", _WRONG, ("number", "9" * 10**6)),
    Attack("answers", "a number with a huge exponent", _WRONG, ("number", "1e" + "9" * 10**5)),
    Attack("answers", "a million numbers", _WRONG, ("number", "1 " * 10**6)),
    Attack("answers", "thousands without end", _WRONG, ("number", "1" + ",111" * 10**5)),
    Attack("answers", "digits above a line", _WRONG, ("number", "\u00b9\u00b2")),
]
RECORDED = [
    Attack("recorded", "a reference that backtracks", "the limit is journaled", ({"kind": "regex"}, "(a+)+$")),
    Attack(
        "recorded",
        "a scorer's pattern that backtracks",
        "the limit is journaled",
        ({"kind": "exact", "pattern": "((a|aa)+)$"}, "aa"),
    ),
    Attack("recorded", "a filter of lm-evaluation-harness that backtracks", "the limit is recorded", None),
]
ATTACKS = [*FILES, *TEMPLATES, *PATTERNS, *ANSWERS, *RECORDED]


def outcome(function: Any, *args: Any, seconds: float = 8.0) -> str:
    """What a function returns, or its one line of error; called within limits that fail the test."""
    try:
        return str(call(Bounds(seconds=seconds, memory=2**31), function, *args))
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 1000
    return line


# in the child process


def read_recipe(path: str) -> str:
    from cycleqd_merge.config.loading import load_recipe

    return type(load_recipe(path)).__name__


def read_task(path: str) -> str:
    from cycleqd_merge.config.loading import load_recipe, load_task

    return type(load_task(load_recipe(path).tasks[0])).__name__


def read_lm_eval(path: str) -> str:
    from cycleqd_merge.config.tasks import LmEvalTaskConfig
    from cycleqd_merge.tasks.lm_eval import LmEvalTask

    return type(LmEvalTask(LmEvalTaskConfig(kind="lm_eval", task=path))).__name__


def read_setting(path: str, setting: str) -> str:
    from cycleqd_merge.config.loading import load_recipe

    return type(load_recipe(path, [f"seed={setting}"])).__name__


def fill(template: str) -> int:
    from cycleqd_merge.tasks.bounded_templates import Template

    return len(Template.parse(template).fill({"a": "x"}))


def fill_chat(template: str) -> str:
    from cycleqd_merge.errors import TaskError
    from cycleqd_merge.merging.chat_templates import _rendered

    try:
        return _rendered(template, '[[{"role": "user", "content": "x"}], {}, {}]')
    except TaskError as error:
        return str(error)


def group(pattern: str) -> int:
    from types import SimpleNamespace

    from cycleqd_merge.config.evolution import PatternGroupsConfig
    from cycleqd_merge.merging.groups import Groups

    weight: Any = SimpleNamespace(name="model." + "a" * 40 + ".weight", shape=(2, 2))
    return len(Groups([weight], PatternGroupsConfig(patterns=[pattern])))


def compiled(pattern: str) -> str:
    from pydantic import ValidationError

    from cycleqd_merge.config.scorers import NumberScorerConfig

    try:
        return type(NumberScorerConfig(kind="number", pattern=pattern)).__name__
    except ValidationError as error:
        return str(error.errors()[0]["msg"])


def own_pattern(pattern: str) -> str:
    from cycleqd_merge.config.scorers import ExactScorerConfig
    from cycleqd_merge.tasks.references import reference_problem

    return str(reference_problem("a" * 40, ExactScorerConfig(kind="exact", pattern=pattern)))


def known(pattern: str) -> str:
    from cycleqd_merge.config.scorers import RegexScorerConfig
    from cycleqd_merge.tasks.generate_answers import known_texts

    found = known_texts(RegexScorerConfig(kind="regex"), lambda text: 0.0, pattern, [], [])
    return " ".join(each.name for each in found)


def score_dbbench(answer: str) -> float:
    from cycleqd_merge.tasks.database.turns import is_answer

    return float(is_answer(f"Action: Answer\nFinal Answer: {answer}", ["1"]))


def score_statement(turn: str) -> float:
    from cycleqd_merge.tasks.database.turns import read_statement

    return float(read_statement(turn) is not None)


def score_bash(turn: str) -> float:
    from cycleqd_merge.tasks.os_interaction.turns import read_action

    action = read_action(turn)
    return float(action is None or bool(action.content))


def score_number(output: str) -> float:
    from cycleqd_merge.config.scorers import NumberScorerConfig
    from cycleqd_merge.tasks.scorers import number

    return number(output, "12", NumberScorerConfig(kind="number"))


# the tests


@pytest.mark.parametrize("attack", cases(FILES))
def test_yaml_is_read_within_limits(tmp_path: Path, attack: Attack) -> None:
    kind, text, problem = attack.given
    if kind == "lm_eval":
        pytest.importorskip("lm_eval")
    recipe, file = tmp_path / "recipe.yaml", tmp_path / "t.yaml"
    recipe.write_text(text if kind == "recipe" else RECIPE)
    file.write_text(text)
    given = {
        "recipe": (read_recipe, recipe),
        "task file": (read_task, recipe),
        "lm_eval": (read_lm_eval, file),
        "setting": (read_setting, recipe, text),
    }[kind]
    assert re.search(problem, outcome(given[0], *map(str, given[1:])))


def test_what_recipes_contain_is_far_below_the_limits(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    experts = ", ".join(f"e{number}: &e{number} a/e{number}" for number in range(200))
    recipe.write_text(RECIPE.replace("{one: a/one, two: a/two}", f"{{one: &one a/one, two: *one, {experts}}}"))
    assert outcome(read_recipe, str(recipe)) == "Recipe"


@pytest.mark.parametrize("attack", cases(TEMPLATES))
def test_templates_run_within_limits(attack: Attack) -> None:
    first, second = attack.given
    found = outcome(fill_chat, second) if first == "chat" else outcome(fill, first)
    assert re.search("limit of CPU time" if first == "chat" else second, found), found[:200]


@pytest.mark.parametrize("attack", cases(PATTERNS))
def test_patterns_run_within_limits(attack: Attack) -> None:
    kind, pattern, problem = attack.given
    function = {"groups": group, "compiled": compiled, "own pattern": own_pattern, "known": known}[kind]
    assert re.search(problem, outcome(function, pattern))


@pytest.mark.parametrize("attack", cases(ANSWERS))
def test_answers_are_read_within_limits(attack: Attack) -> None:
    kind, answer = attack.given
    function = {"dbbench": score_dbbench, "statement": score_statement, "bash": score_bash, "number": score_number}[
        kind
    ]
    assert outcome(function, answer, seconds=3.0) == "0.0"


@pytest.mark.parametrize("attack", cases(RECORDED[:2]))
def test_a_limit_is_journaled(tmp_path: Path, attack: Attack) -> None:
    from cycleqd_merge.evaluation.pools.pool import Finished
    from cycleqd_merge.evaluation.worker import Evaluation, TaskResult
    from cycleqd_merge.outputs.measure import evaluation_json
    from cycleqd_merge.run.loop import _event
    from cycleqd_merge.tasks import limits
    from cycleqd_merge.tasks.generate import GenerateTask

    scorer, answer = attack.given
    write_rows(tmp_path / "rows.jsonl", *({"prompt": text, "answer": answer} for text in ("a" * 80 + "!", "aa")))
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    stated = {"kind": "generate", "data": data, "prompt": "{{ prompt }}", "scorer": scorer}
    task = GenerateTask(defined(tmp_path, stated))

    async def score() -> list[Any]:
        samples = task.samples("search")
        return await asyncio.gather(*(limits.score_within_limits(task, sample, Scripted(str)) for sample in samples))

    outcomes = asyncio.run(score())
    assert [each.score for each in outcomes] == [0.0, 1.0]
    assert [each.limits for each in outcomes] == [("a regular expression exceeded the limit of CPU time",), ()]
    evaluation = Evaluation({"t": TaskResult(("a", "b"), tuple(outcomes))}, (0.5,), 0.0, 0.0, 2, 2)
    event: Event = _event(Finished(0, evaluation), {})
    assert event["limited"] == {"t": 1}
    assert evaluation_json(evaluation)["t"]["limited"] == 1


def test_filters_of_the_harness_run_within_limits() -> None:
    pytest.importorskip("lm_eval")
    from types import SimpleNamespace

    from lm_eval.filters.extraction import RegexFilter

    from cycleqd_merge.tasks.lm_eval import _bound_filters

    ensemble = SimpleNamespace(filters=[lambda: RegexFilter(r"((?:a|aa)+)$|(b)(c)")])
    _bound_filters(SimpleNamespace(_filters=[ensemble]))
    answers = [["xaa"], ["a" * 80 + "!"], ["bc"]]
    found = ensemble.filters[0]().apply(answers, [{}] * 3)
    assert found == [["aa"], ["[invalid]"], ["b"]]
