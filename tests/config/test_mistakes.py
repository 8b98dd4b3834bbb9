"""Every mistake in a recipe is one line: file, line, key, what is wrong, what was found, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from cycleqd_merge.config.evolution import (
    EvolutionConfig,
    LayerGroupsConfig,
    PatternGroupsConfig,
    SvdMutationConfig,
)
from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import Recipe, TaskConfig
from cycleqd_merge.config.rows import RowsConfig, SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.config.scorers import ExactScorerConfig, ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, MessageConfig, PythonTaskConfig, TaskDefinitionConfig
from cycleqd_merge.errors import UserError
from tests.config.texts import INLINE, NAMED, fault, faults, replaced

KINDS = ", ".join(
    get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(TaskDefinitionConfig)[0])
)

SCORERS = ", ".join(
    get_args(scorer.model_fields["kind"].annotation)[0] for scorer in get_args(get_args(ScorerConfig)[0])
)
PYTHON = replaced(NAMED, "task: smollm2-bash", "task: {kind: python, target: a.py:A}")


def in_evolution(text: str) -> str:
    """A recipe whose line 12 is `text`, under `evolution`."""
    return f"{NAMED}evolution:\n  {text}\n"


def in_task(text: str) -> str:
    """A recipe whose second task has `text`, in line 9, in place of its expert."""
    return replaced(NAMED, "expert: code", text)


@pytest.mark.parametrize(
    ("text", "start", "models"),
    [
        (replaced(NAMED, "output", "outptu"), "10: outptu: unknown key; did you mean 'output'?", [Recipe]),
        (in_evolution("sgima: 1"), "12: evolution.sgima: unknown key; did you mean 'sigma'?", [EvolutionConfig]),
        (
            in_evolution("mutation: {wmax: 1}"),
            "12: evolution.mutation.wmax: unknown key; did you mean 'w_max'?",
            [SvdMutationConfig],
        ),
        (
            in_evolution("groups: {layer: 3}"),
            "12: evolution.groups.layer: unknown key; did you mean 'layers'?",
            [LayerGroupsConfig, PatternGroupsConfig],
        ),
        (in_task("exprt: code"), "9: tasks.1.exprt: unknown key; did you mean 'expert'?", [TaskConfig]),
        (
            replaced(INLINE, "prompt:", "promt:"),
            "12: tasks.1.task.promt: unknown key; did you mean 'prompt'?",
            [GenerateTaskConfig],
        ),
        (
            replaced(INLINE, "rows:", "row:"),
            "11: tasks.1.task.data.row: unknown key; did you mean 'rows'?",
            [SplitRowsConfig, TwoFilesConfig],
        ),
        (
            replaced(INLINE, "path:", "pth:"),
            "11: tasks.1.task.data.rows.pth: unknown key; did you mean 'path'?",
            [RowsConfig],
        ),
        (
            replaced(INLINE, "lowercase", "lowercas"),
            "15: tasks.1.task.scorer.lowercas: unknown key; did you mean 'lowercase'?",
            [ExactScorerConfig],
        ),
        (
            replaced(INLINE, 'prompt: "{{ q }}"', "messages: [{role: user, contnt: x}]"),
            "12: tasks.1.task.messages.0.contnt: unknown key; did you mean 'content'?",
            [MessageConfig],
        ),
        (
            replaced(PYTHON, "target", "traget"),
            "7: tasks.1.task.traget: unknown key; did you mean 'target'?",
            [PythonTaskConfig],
        ),
        (in_evolution("zzz: 1"), "12: evolution.zzz: unknown key", [EvolutionConfig]),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_and_the_allowed_ones(
    tmp_path: Path, text: str, start: str, models: list[type[BaseModel]]
) -> None:
    keys = [key for model in models for key in model.model_fields]
    assert fault(tmp_path, text) == f"recipe.yaml:{start}; allowed: {', '.join(keys)}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            replaced(INLINE, 'prompt: "{{ q }}"', 'prompt: "{{ q }}"\n      stop: [""]'),
            "13: tasks.1.task.stop.0: string should have at least 1 character; found ''",
        ),
        # wrong types
        (in_evolution("generations: many"), "12: evolution.generations: expected a whole number; found 'many'"),
        (in_evolution("generations: 1.5"), "12: evolution.generations: expected a whole number; found 1.5"),
        (
            f"{NAMED}models: {{end_tokens: [true]}}\n",
            "11: models.end_tokens.0: write a token such as '</s>', or its id; found true",
        ),
        (
            f"{NAMED}models: {{end_tokens: [1.5]}}\n",
            "11: models.end_tokens.0: write a token such as '</s>', or its id; found 1.5",
        ),
        (
            replaced(NAMED, "base: ", "base: https://huggingface.co/"),
            "1: base: write a model as a Hub id or a path, with `@revision` and `+adapter` where needed; "
            "found 'https://huggingface.co/org/base'",
        ),
        (in_evolution("sigma: [1]"), "12: evolution.sigma: expected a number; found [1]"),
        (
            in_evolution("mutation: {signed: maybe}"),
            "12: evolution.mutation.signed: expected true or false; found 'maybe'",
        ),
        (in_evolution("mutation: svd"), "12: evolution.mutation: expected keys with values; found 'svd'"),
        (f"{NAMED}evolution:\n", "11: evolution: expected keys with values; found null"),
        (f"{NAMED}finish: {{export: best-mean}}\n", "11: finish.export: expected a list; found 'best-mean'"),
        (replaced(NAMED, "runs/x", "2020-01-01"), "10: output: expected text; found 2020-01-01"),
        (replaced(NAMED, "runs/x", "true"), "10: output: expected text; found true"),
        (in_task("3: x"), "9: tasks.1.3: this key must be text; put it in quotes; found 3"),
        (
            replaced(NAMED, "sql: org", "7: org").replace(", expert: sql", ""),
            "4: experts.7: this key must be text; put it in quotes; found 7",
        ),
        (
            replaced(NAMED, "  - {task: smollm2-sql, name: sql, expert: sql}", "  - smollm2-sql"),
            "6: tasks.0: expected keys with values; found 'smollm2-sql'",
        ),
        (
            replaced(INLINE, "{path: a.jsonl}", "a.jsonl"),
            "11: tasks.1.task.data.rows: expected keys with values; found 'a.jsonl'",
        ),
        # engines that share a GPU
        (
            f"{NAMED}engine: {{kind: vllm, per_gpu: 2, options: {{tensor_parallel_size: 2}}}}\n",
            "11: engine.per_gpu: engines that span several GPUs cannot share one",
        ),
        (
            f"{NAMED}engine: {{kind: vllm, per_gpu: 4, options: {{gpu_memory_utilization: 0.9}}}}\n",
            "11: engine.options.gpu_memory_utilization: 4 engines with 0.9 of a GPU's memory each do not fit; "
            "the limit is 0.24 each",
        ),
        (
            f"{NAMED}engine: {{kind: vllm, per_gpu: 2}}\n",
            "11: engine.per_gpu: more than one engine per GPU requires more than one worker; set `workers: auto`",
        ),
        # values out of range
        (in_evolution("bins: 0"), "12: evolution.bins: must be at least 1; found 0"),
        (in_evolution("mutation: {w_max: -1}"), "12: evolution.mutation.w_max: must be above 0; found -1"),
        (in_evolution("sigma: .inf"), "12: evolution.sigma: expected a finite number; found inf"),
        (in_evolution("sigma: .nan"), "12: evolution.sigma: expected a finite number; found nan"),
        (in_evolution("groups: {layers: 0}"), "12: evolution.groups.layers: must be at least 1; found 0"),
        (in_evolution("groups: {blocks: 0}"), "12: evolution.groups.blocks: must be at least 1; found 0"),
        (
            in_evolution("groups: {layers: 4, blocks: 3}"),
            "12: evolution.groups: set `layers` or `blocks`, not both",
        ),
        (
            in_evolution("groups: {blocks: 3, patterns: [a]}"),
            "12: evolution.groups.blocks: cannot be combined with `patterns`",
        ),
        (in_evolution("groups: {patterns: []}"), "12: evolution.groups.patterns: requires 1 or more entries; found []"),
        (
            f"{NAMED}models: {{vocabulary: bass}}\n",
            "11: models.vocabulary: not an allowed value; did you mean 'base'?; allowed: strict, base, union; "
            "found 'bass'",
        ),
        (in_task("bounds: [0, 1, 2]"), "9: tasks.1.bounds: allows 2 or fewer entries; found [0, 1, 2]"),
        (in_task("bounds: [0]"), "9: tasks.1.bounds: too few entries; found [0]"),
        (in_task("bounds: []"), "9: tasks.1.bounds: too few entries; found []"),
        (in_task("bounds: [x, 1]"), "9: tasks.1.bounds.0: expected a number; found 'x'"),
        (in_task("role: keep\n    floor: 1.5"), "10: tasks.1.floor: must be at most 1; found 1.5"),
        # values that contradict each other
        (in_evolution("alpha_low: 0.9"), "12: evolution.alpha_low: 0.9 is above alpha_high, which is 0.8"),
        (in_evolution("bounds: {low: 1.2}"), "12: evolution.bounds.low: 1.2 is not below bounds.high, which is 1.15"),
        (in_evolution("scaling: [1.6, 1.0]"), "12: evolution.scaling: 1.6 is above 1.0"),
        (
            in_evolution("{mates: any, cycling: false}"),
            "12: evolution.mates: `any` requires `cycling: true`; plain MAP-Elites has one archive",
        ),
        (
            in_evolution("cycling: false\nstrategy: {kind: cma-me}"),
            "12: evolution.cycling: CMA-ME requires `cycling: true`: it improves one archive per task",
        ),
        (
            in_evolution("cycling: false\nstrategy: {kind: bayesian, bred: 0.5}"),
            "12: evolution.cycling: bayesian requires `cycling: true`: its `bred` children are created per task",
        ),
        *(
            (
                in_evolution(f"{stated}\nstrategy: {{kind: bayesian}}"),
                f"12: evolution.{stated.partition(':')[0]}: bayesian does not use it unless `strategy.bred` is "
                "above 0; remove it",
            )
            for stated in ("scaling: [1.0, 1.6]", "mates: any", "adaptive: true")
        ),
        (
            in_evolution("preset: recommended\n  adaptive: true"),
            "13: evolution.adaptive: bayesian does not use it unless `strategy.bred` is above 0; remove it",
        ),
        (
            in_evolution("race: {}\n  cycling: false"),
            "12: evolution.race: requires `cycling: true`; plain MAP-Elites does not support racing",
        ),
        *(
            (
                in_evolution(f"{stated}\nstrategy: {{kind: {kind}}}"),
                f"12: evolution.{stated.partition(':')[0]}: {kind} does not use it; remove it",
            )
            for kind in ("random", "cma-es", "nsga2", "mergekit")
            for stated in ("scaling: [1.0, 1.6]", "mates: any", "adaptive: true", "warm_start: [0.5]")
        ),
        (
            in_evolution("mates: any\nstrategy: {kind: python, target: 'mine:Mine'}"),
            "12: evolution.mates: python does not use it; remove it",
        ),
        (
            in_evolution("adaptive: true\nstrategy: {kind: cma-me}"),
            "12: evolution.adaptive: cma-me does not use it unless `strategy.bred` is above 0; remove it",
        ),
        (
            f"{NAMED}strategies: {{mine: {{strategy: {{kind: random}}, evolution: {{adaptive: true}}}}}}\n",
            "11: strategies.mine.evolution.adaptive: random does not use it; remove it",
        ),
        (
            f"{NAMED}searches: {{mine: {{strategy: {{kind: randm}}}}}}\n",
            "11: searches.mine.strategy.kind: no such kind; did you mean 'random'?; allowed: cycleqd, random, "
            "cma-es, cma-me, bayesian, nsga2, mergekit, none, python; found 'randm'",
        ),
        (
            f"{NAMED}strategies: {{}}\nsearches: {{}}\n",
            "12: searches: cannot be combined with `strategies`, which replaces it; use `strategies` alone",
        ),
        (in_task("bounds: [1, 0]"), "9: tasks.1.bounds: 1.0 is not below 0.0"),
        (in_task("floor: 0.5"), "9: tasks.1.floor: requires `role: keep`"),
        (
            in_evolution("groups: {modules: false}"),
            "12: evolution.groups: set `layers` or `blocks`, `modules: true`, or both",
        ),
        (
            in_evolution("groups: {layers: 1, patterns: [a]}"),
            "12: evolution.groups.layers: cannot be combined with `patterns`",
        ),
        (
            replaced(INLINE, 'prompt: "{{ q }}"', "prompt: x\n      system: y"),
            "13: tasks.1.task.system: requires `messages`, or `prompt` with `chat: true`",
        ),
        (
            replaced(INLINE, 'prompt: "{{ q }}"', "prompt: x\n      messages: [{role: user, content: x}]"),
            "8: tasks.1.task: set either `prompt` or `messages`",
        ),
        (
            replaced(INLINE, "path: a.jsonl", ""),
            "11: tasks.1.task.data.rows: set one of `path` (a file), `url` (a file on the web) and `dataset` (a Hub "
            "id)",
        ),
        # values of a form
        (
            in_evolution("groups: {patterns: ['(']}"),
            "12: evolution.groups.patterns.0: not a regular expression: "
            "missing ), unterminated subpattern at position 0; found '('",
        ),
        (
            replaced(INLINE, "lowercase: true", "pattern: '['"),
            "15: tasks.1.task.scorer.pattern: not a regular expression: "
            "unterminated character set at position 0; found '['",
        ),
        (
            replaced(INLINE, "lowercase: true", "pattern: 'a{99999999999}'"),
            "15: tasks.1.task.scorer.pattern: not a regular expression: "
            "the repetition number is too large; found 'a{99999999999}'",
        ),
        (
            replaced(NAMED, "org/code", "a+b+c"),
            "3: experts.code: write a model as a Hub id or a path, with `@revision` and `+adapter` where needed; "
            "found 'a+b+c'",
        ),
        (
            replaced(NAMED, "name: code", "name: my code"),
            "8: tasks.1.name: a name consists of letters, digits, `_`, `.` and `-`, and starts with a letter or digit; "
            "found 'my code'",
        ),
        (
            replaced(PYTHON, "a.py:A", "a.py"),
            "7: tasks.1.task.target: write `module:Class` or `path/to/file.py:Class`; found 'a.py'",
        ),
        (
            in_evolution("groups: two"),
            "12: evolution.groups: not an allowed value; allowed: one, the keys layers, blocks, modules, patterns; "
            "found 'two'",
        ),
        # kinds
        (
            in_evolution("mutation: {kind: svdd}"),
            "12: evolution.mutation.kind: no such kind; did you mean 'svd'?; "
            "allowed: svd, gaussian, none; found 'svdd'",
        ),
        (
            replaced(INLINE, "kind: generate", "kind: generat"),
            f"9: tasks.1.task.kind: no such kind; did you mean 'generate'?; allowed: {KINDS}; found 'generat'",
        ),
        (
            replaced(INLINE, "      kind: generate\n", ""),
            f"8: tasks.1.task.kind: this key is required; allowed: {KINDS}",
        ),
        (
            replaced(INLINE, "kind: exact", "kind: exat"),
            f"14: tasks.1.task.scorer.kind: no such kind; did you mean 'exact'?; allowed: {SCORERS}; found 'exat'",
        ),
        (
            replaced(INLINE, "        kind: exact\n", ""),
            f"13: tasks.1.task.scorer.kind: this key is required; allowed: {SCORERS}",
        ),
        # missing keys
        (replaced(NAMED, "base: org/base\n", ""), "1: base: this key is required"),
        (replaced(NAMED, "output: runs/x\n", ""), "1: output: this key is required"),
        (replaced(NAMED, "task: smollm2-bash\n    ", ""), "7: tasks.1.task: this key is required"),
        (
            replaced(INLINE, "rows: {path: a.jsonl}", "search: {path: a.jsonl}"),
            "10: tasks.1.task.data.heldout: this key is required",
        ),
        (
            replaced(INLINE, "  - name: code\n    task:", "  - task:"),
            "7: tasks.1: a task that is defined in the recipe requires a `name`",
        ),
        # what the parts of a recipe say of each other
        (
            in_task("expert: cod"),
            "9: tasks.1.expert: no expert is named 'cod'; did you mean 'code'?; available: code, sql",
        ),
        (
            replaced(NAMED, "name: code", "name: sql"),
            "8: tasks.1.name: two tasks are named 'sql'; give one of them a different `name`",
        ),
        (in_task("role: keep"), "5: tasks: at least 2 tasks with `role: optimise` are required; found 1"),
        (
            f"{NAMED.partition('  - task')[0]}output: x\n",
            "5: tasks: requires 2 or more entries; found [{'task': 'smollm2-sql', 'name': 'sql', 'expert': 'sql'}]",
        ),
        (
            replaced(NAMED, "  code: org/code\n", "").replace("expert: code", ""),
            "2: experts: requires 2 or more entries; found {'sql': 'org/sql'}",
        ),
        (
            replaced(NAMED, "  code: org/code\n  sql: org/sql\n", ""),
            "2: experts: expected keys with values; found null",
        ),
        (
            replaced(NAMED, "task: smollm2-bash\n    name: code", "task: my tasks/sums of two.yaml"),
            "7: tasks.1.task: give the task a `name`: a name consists of letters, digits, `_`, `.` and `-`, "
            "and starts with a letter or digit; found 'sums of two'",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert fault(tmp_path, text) == f"recipe.yaml:{line}"


def test_several_mistakes_are_told_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = replaced(replaced(INLINE, "lowercase: true", "lowercase: 7"), "path: a.jsonl", "path: 8")
    assert faults(tmp_path, f"evolution: {{bins: 0}}\n{text}") == [
        "recipe.yaml:1: evolution.bins: must be at least 1; found 0",
        "recipe.yaml:12: tasks.1.task.data.rows.path: expected text; found 8",
        "recipe.yaml:16: tasks.1.task.scorer.lowercase: expected true or false; found 7",
    ]


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    line = fault(tmp_path, in_evolution(f"bins: {'x' * 1000}"))
    assert line.endswith("...")
    assert len(line) < 150


def test_an_unknown_task_is_told_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task 'smolm2-sql': no such file or shipped task; shipped: ") as raised:
        load_task(TaskConfig(task="smolm2-sql"))
    assert "did you mean 'smollm2-sql'?" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: python\n", "1: target: this key is required"),
        ("target: a.py:A\n", f"1: kind: this key is required; allowed: {KINDS}"),
        (
            "# a comment\n\nkind: pyton\n",
            f"3: kind: no such kind; did you mean 'python'?; allowed: {KINDS}; found 'pyton'",
        ),
        ("kind: python\ntarget: a.py:A\noptions:\n  - 1\n", "3: options: expected keys with values; found [1]"),
    ],
)
def test_a_mistake_in_a_task_file_is_told_with_that_file(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "sums.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_task(TaskConfig(task=str(path)))
    assert str(raised.value) == f"{path}:{line}"
