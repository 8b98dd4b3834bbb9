"""`--set` and environment variables: what they change, and what is said when they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.config.evolution import LayerGroupsConfig, NoMutationConfig, SvdMutationConfig
from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig
from tests.config.texts import INLINE, NAMED, fault, load, replaced


def test_a_setting_overrides_what_the_file_states_and_what_it_does_not(tmp_path: Path) -> None:
    text = f"{NAMED}evolution:\n  generations: 7\n"
    evolution = load(tmp_path, text, "evolution.generations=5", "evolution.sigma=0.5").evolution
    assert (evolution.generations, evolution.sigma) == (5, 0.5)


def test_later_settings_win(tmp_path: Path) -> None:
    assert load(tmp_path, NAMED, "output=a", "output=b").output == "b"


def test_settings_are_yaml(tmp_path: Path) -> None:
    evolution = load(tmp_path, NAMED, "evolution={mutation: {kind: none}, bins: 3}").evolution
    assert (evolution.mutation, evolution.bins) == (NoMutationConfig(kind="none"), 3)
    assert load(tmp_path, NAMED, "output='2020-01-01'").output == "2020-01-01"
    assert load(tmp_path, NAMED, "output=a=b").output == "a=b"


def test_settings_create_nested_keys(tmp_path: Path) -> None:
    evolution = load(tmp_path, NAMED, "evolution.groups.layers=3", "evolution.mutation.w_max=0.1").evolution
    assert evolution.groups == LayerGroupsConfig(layers=3)
    assert evolution.mutation == SvdMutationConfig(w_max=0.1)


def test_settings_reach_into_lists_by_place(tmp_path: Path) -> None:
    tasks = load(tmp_path, NAMED, "tasks.1.expert=sql", "tasks.0={task: smollm2-math}").tasks
    assert [(use.task, use.expert) for use in tasks] == [("smollm2-math", None), ("smollm2-bash", "sql")]


def test_a_setting_changes_one_place_of_an_alias_alone(tmp_path: Path) -> None:
    text = replaced(INLINE, "    task:\n", "    task: &common\n")
    text = replaced(text, "output:", "  - {name: other, task: {<<: *common}}\noutput:")
    tasks = load(tmp_path, text, "tasks.2.task.scorer={kind: number}", "tasks.1.task.scorer.lowercase=false").tasks
    scorers = [use.task.scorer for use in tasks if isinstance(use.task, GenerateTaskConfig)]
    assert scorers == [ExactScorerConfig(kind="exact", lowercase=False), NumberScorerConfig(kind="number")]
    tasks = load(tmp_path, text, "tasks.2.task.scorer.lowercase=false").tasks
    scorers = [use.task.scorer for use in tasks if isinstance(use.task, GenerateTaskConfig)]
    assert scorers == [
        ExactScorerConfig(kind="exact", lowercase=True),
        ExactScorerConfig(kind="exact", lowercase=False),
    ]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("evolution", "write key.path=value"),
        ("=3", "write key.path=value"),
        ("tasks.5.expert=sql", "tasks is a list without position '5'; positions are 0 to 1"),
        ("tasks.-1.expert=sql", "tasks is a list without position '-1'; positions are 0 to 1"),
        ("tasks.2={task: smollm2-math}", "tasks is a list without position '2'; positions are 0 to 1"),
        ("tasks.first={task: smollm2-math}", "tasks is a list without position 'first'; positions are 0 to 1"),
        ("base.x.y=3", "base is a value and has no keys"),
        ("base=[", "while parsing a flow node, expected the node content, but found '<stream end>'"),
        ("evolution.bins=0", "evolution.bins: must be at least 1; found 0"),
        ("evolution.bins=", "evolution.bins: expected a whole number; found null"),
        ("evolution.alpha_low=0.9", "evolution.alpha_low: 0.9 is above alpha_high, which is 0.8"),
        ("tasks.1.expert=cod", "tasks.1.expert: no expert is named 'cod'; did you mean 'code'?; available: code, sql"),
        ("tasks.1={name: x}", "tasks.1.task: this key is required"),
    ],
)
def test_a_bad_setting_is_told_as_such(tmp_path: Path, setting: str, problem: str) -> None:
    assert fault(tmp_path, NAMED, setting) == f"--set {setting}: {problem}"


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        ("evolution.generation=5", "evolution.generation: unknown key; did you mean 'generations'?; allowed: "),
        ("evolutoin.generations=5", "evolutoin: unknown key; did you mean 'evolution'?; allowed: "),
        ("tasks.1.exprt=sql", "tasks.1.exprt: unknown key; did you mean 'expert'?; allowed: "),
    ],
)
def test_a_typo_in_a_setting_is_told_as_such(tmp_path: Path, setting: str, start: str) -> None:
    assert fault(tmp_path, NAMED, setting).startswith(f"--set {setting}: {start}")


def test_a_mistake_of_the_file_keeps_its_line_beside_settings(tmp_path: Path) -> None:
    text = f"{NAMED}evolution:\n  bins: 0\n"
    assert fault(tmp_path, text, "evolution.mu=2").startswith("recipe.yaml:12: evolution.bins: ")
    text = replaced(NAMED, "expert: code", "role: keep")
    assert fault(tmp_path, text, "tasks.0.samples=3").startswith("recipe.yaml:5: tasks: at least 2 tasks ")


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("${MODEL}", "org/m", "org/m"),
        ("${MODEL}-v2", "org/m", "org/m-v2"),
        ("${MODEL:-org/d}", "org/m", "org/m"),
        ("${MODEL:-org/d}", None, "org/d"),
        ("${MODEL:-org/d}", "", "org/d"),
        ("x${MODEL}", "", "x"),
        ("x${MODEL:-}", None, "x"),
        ("$${MODEL}", "org/m", "${MODEL}"),
        ("$MODEL", "org/m", "$MODEL"),
        ("${MODEL}", "${MODEL}", "${MODEL}"),
    ],
)
def test_variables_are_replaced_as_a_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str | None, expected: str
) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    if value is not None:
        monkeypatch.setenv("MODEL", value)
    assert load(tmp_path, replaced(NAMED, "org/sql", f"'{text}'")).experts["sql"] == expected


def test_an_unset_variable_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    text = replaced(NAMED, "org/sql", "${MODEL}")
    advice = "set the environment variable, or the key with --set"
    assert fault(tmp_path, text) == f"recipe.yaml:4: experts.sql: ${{MODEL}} is not set; {advice}"


def test_a_setting_replaces_an_unset_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    text = replaced(NAMED, "org/base", "${MODEL}")
    assert load(tmp_path, text, "base=org/b").base == "org/b"


def test_variables_in_settings_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "org/m")
    assert load(tmp_path, NAMED, "base=${MODEL}").base == "org/m"
