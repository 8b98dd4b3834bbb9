"""Task kind `os_interaction`: conversations with a real shell in a box, and how they are graded."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import OsInteractionTaskConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.check import check
from cycleqd_merge.tasks.os_interaction.problems import OsProblem, Script, read_os_problem
from cycleqd_merge.tasks.os_interaction.task import OsInteractionTask
from cycleqd_merge.tasks.protocol import Outcome, Sampling
from tests.components import DATA
from tests.tasks.scripted import Scripted, defined, write_rows

SAME = ["python", "from sys import argv\nexit(argv[1].strip() != argv[2].strip())"]
COUNT = {
    "description": "How many lines has /root/file?",
    "init_script": [["bash", "seq 7 > /root/file"]],
    "check": [None, SAME],
    "example_script": ["bash", "wc -l < /root/file"],
}
MAKE = {
    "description": "Make the file /root/made.",
    "check": [["bash", "test -e /root/made"]],
    "example_script": ["bash", "touch /root/made"],
}
WORD = {
    "description": "What is $var?",
    "start": ["bash", "var=secret; cd /usr"],
    "match": {"answer": "secret", "strip": True},
}

pytestmark = pytest.mark.usefixtures("own_root")


def open_os(folder: Path, *rows: dict[str, Any], **keys: Any) -> OsInteractionTask:
    """A task over `rows`, the same for both splits."""
    write_rows(folder / "rows.jsonl", *rows)
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    stated = {"kind": "os_interaction", "data": data, "chat": True, "prompt": "{{ description }}", **keys}
    return OsInteractionTask(defined(folder, stated))


def play(task: OsInteractionTask, *turns: str) -> tuple[Outcome, list[str]]:
    """Play the first sample with a model that gives `turns`: the outcome, and the last message of each request."""
    saying = iter(turns)
    model = Scripted(lambda messages: next(saying, "Act: finish"))
    outcome = asyncio.run(task.score(task.samples("search")[0], model))
    return outcome, [request[1][-1]["content"] for request in model.requests]


def bash(command: str) -> str:
    return f"Think: so.\n\nAct: bash\n\n```bash\n{command}\n```"


def test_a_model_works_in_a_shell_and_answers(tmp_path: Path) -> None:
    outcome, messages = play(open_os(tmp_path, COUNT), bash("cd /root && ls"), bash("wc -l file"), "Act: answer(7)")
    assert messages == [COUNT["description"], "The output of the OS:\n\nfile\n", "The output of the OS:\n\n7 file\n"]
    assert outcome.score == 1.0
    assert outcome.output.endswith("Act: answer(7)")


@pytest.mark.parametrize(
    ("row", "turns", "score"),
    [
        (COUNT, ["Act: answer(8)"], 0.0),
        (COUNT, ["Act: answer()"], 0.0),
        (COUNT, ["Act: finish"], 0.0),
        (COUNT, ["no idea"], 0.0),
        (COUNT, [bash("rm /root/file"), "Act: answer(7)"], 0.0),  # the example cannot determine the answer any more
        (MAKE, [bash("touch /root/made"), "Act: finish"], 1.0),
        (MAKE, [bash("touch /root/made"), "no action: the system is graded as it is"], 1.0),
        (MAKE, [bash("touch /root/made")] * 5, 1.0),  # out of rounds: the system is graded as it is
        (MAKE, ["Act: finish"], 0.0),
        (WORD, [bash("echo $var; pwd"), "Act: answer( secret )"], 1.0),
        (WORD, ["Act: answer(Secret)"], 0.0),
        ({"description": "d", "match": {"regex": "^[0-9]+ (kB|MB)$"}}, ["Act: answer(12 kB)"], 1.0),
        ({"description": "d", "match": {"regex": "^[0-9]+ (kB|MB)$"}}, ["Act: answer(kB)"], 0.0),
    ],
)
def test_answers_and_states_are_graded(tmp_path: Path, row: dict[str, Any], turns: list[str], score: float) -> None:
    assert play(open_os(tmp_path, row), *turns)[0].score == score


def test_scripts_can_be_in_four_languages(tmp_path: Path) -> None:
    init = [
        ["python", "open('/root/python', 'w').write('1')"],
        ["c", '#include <stdio.h>\nint main() { fputs("2\\n", fopen("/root/c", "w")); }'],
        ["c++", '#include <fstream>\nint main() { std::ofstream("/root/c++") << "it\'s \\"3\\""; }'],
    ]
    _, messages = play(open_os(tmp_path, {**WORD, "init_script": init}), bash("cat /root/python /root/c /root/c++"))
    assert messages[1] == 'The output of the OS:\n\n12\nit\'s "3"'


def test_every_conversation_has_its_own_system(tmp_path: Path) -> None:
    task = open_os(tmp_path, MAKE, repeats=3)
    turns = iter([bash("touch /root/made"), "Act: finish"] + ["Act: finish"] * 4)
    model = Scripted(lambda messages: "Act: finish" if len(messages) > 1 else next(turns))
    outcome = asyncio.run(task.score(task.samples("search")[0], model))
    assert outcome.score == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "attack",
    [
        "kill -9 -1; kill 1",
        "rm -rf / --no-preserve-root",
        ":(){ :|:& };:",
        "yes",
        "exit",
        "cat",
        "exec sleep 100",
        "printf '\\033]0;owned\\007\\033[2J'",
        "head -c 10M /dev/zero | tr '\\0' x",
        "cp /bin/true /usr/bin/python3; exit 0",
    ],
)
def test_an_attack_does_not_affect_other_samples(tmp_path: Path, attack: str) -> None:
    task = open_os(tmp_path, COUNT, seconds=2.0)
    _, messages = play(task, bash(attack), bash("echo on"))
    assert all("\x1b" not in text and len(text) < 1000 for text in messages)
    assert play(task, bash("wc -l < /root/file"), "Act: answer(7)")[0].score == 1.0


def test_problems_are_read_in_all_formats(tmp_path: Path) -> None:
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "same.py").write_text("exit(0)")
    meant = OsProblem(
        "d",
        (Script("bash", "a"),),
        "b",
        check=(None, Script("python", "exit(0)")),
        example=Script("bash", "c"),
        strip=True,
    )
    agentbench = {
        "description": "d",
        "create": {"local": "default", "init": {"code": "a"}},
        "start": "b",
        "evaluation": {"check": [None, {"language": "python", "file": "check/same.py"}], "example": "c"},
    }
    flat = {
        "description": "d",
        "init_script": [["bash", "a"]],
        "start": ["bash", "b"],
        "check": [None, ["python", "exit(0)"]],
        "example_script": ["bash", "c"],
    }
    assert read_os_problem(agentbench, tmp_path) == meant
    assert read_os_problem(flat, tmp_path) == meant
    assert read_os_problem({"index": 3, "config": {"file": "f", "config": flat}}, tmp_path) == meant
    matched = read_os_problem({"description": "d", "evaluation": {"match": "yes"}}, tmp_path)
    assert (matched.answer, matched.strip) == ("yes", True)


def matching(match: Any) -> dict[str, Any]:
    return {"description": "d", "match": match}


def checking(check: Any, **keys: Any) -> dict[str, Any]:
    return {"description": "d", "check": check, **keys}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"q": 1}, "not an OS problem: no `description`; the row has the columns q"),
        ({"description": "d"}, "an OS problem requires a `match` or a `check`"),
        ({"description": None, "match": "7"}, "description: expected a text; found null"),
        ({"description": " ", "match": "7"}, "description: is empty"),
        ({"description": ["d"], "match": "7"}, "description: expected a text; found ['d']"),
        ({"config": None}, "config: expected an object; found null"),
        ({"config": {"config": "x"}}, "config: config: expected an object; found 'x'"),
        ({"description": "d", "evaluation": "x"}, "evaluation: expected an object; found 'x'"),
        (matching({"answer": 7}), "match: answer: expected a text; found 7; write it in quotes"),
        (matching({"answer": True}), "match: answer: expected a text; found true"),
        (matching({"answer": ["7"]}), "match: answer: expected a text; found ['7']"),
        (matching({"answer": ""}), "match: answer: is empty"),
        (matching({"answer": " 7"}), "match: answer: ' 7' has blanks at an end"),
        (matching({"answer": None}), "match: set `answer` to the exact answer, or `regex`"),
        (matching({"anwser": "7"}), "match: set `answer` to the exact answer, or `regex`"),
        (matching(7), "match: answer: expected a text; found 7; write it in quotes"),
        (matching([]), "match: expected an object; found []"),
        (matching({"regex": 7}), "match: regex: expected a text; found 7; write it in quotes"),
        (matching({"regex": "(7"}), "match: regex: '(7' is not a regular expression: missing ), unterminated"),
        (matching({"regex": ""}), "match: regex: is empty"),
        (matching({"regex": ".*"}), "match: regex: '.*' accepts an empty answer"),
        (matching({"regex": "7|"}), "match: regex: '7|' accepts an empty answer"),
        (matching({"answer": "7", "strip": "no"}), "match: strip: expected true or false; found 'no'"),
        (checking([]), "an OS problem requires a `match` or a `check`"),
        (checking([None]), "an OS problem with null in its `check` requires an `example_script`"),
        (checking([None], example_script="ls"), "check: only runs the example, so every answer would be right"),
        (checking([["bash", " "]]), "check: a script is empty, so every answer would be right"),
        (checking(""), "check: a script is empty, so every answer would be right"),
        (checking([["perl", "1"]]), "check: unknown script language 'perl'; allowed: bash, python, c, c++"),
        (checking(["ruby", "exit 0"]), "check: unknown script language 'ruby'; allowed: bash, python, c, c++"),
        (checking([["bash", "a", "b"]]), "check: expected a script: a text, a pair such as"),
        (checking([["bash", 7]]), "check: expected a script: a text, a pair such as"),
        (checking([7]), "check: expected a script: a text, a pair such as"),
        (checking([{"language": "bash"}]), "check: expected a script: a text, a pair such as"),
        (checking("true", init_script=7), "init_script: expected a script"),
        (checking("true", init_script=[["bash", "a\0b"]]), "init_script: a script contains a NUL character"),
        (checking("true", init_script=["x" * 140_000]), "init_script: a script has more than 131071 bytes"),
        (checking("true", start="x" * 70_000), "start: a command has at most 60000 characters"),
        (checking("true", start=["bash"]), "start: expected a script"),
        (checking("true", example_script="\ud800"), "surrogate"),
        ({"description": "d", "evaluation": {"check": {"file": "no.sh"}}}, "no.sh: cannot be read: No such file"),
        ({"description": "d", "evaluation": {"check": {"file": 7}}}, "check: file: expected a text; found 7"),
        ({"description": "d", "evaluation": {"check": {"file": "../s.sh"}}}, "../s.sh: is outside the scripts' folder"),
        ({"description": "d", "evaluation": {"check": {"file": "/etc/passwd"}}}, "is outside the scripts' folder"),
        ({"description": "d", "evaluation": {"check": {"file": "binary.sh"}}}, "binary.sh: not UTF-8 text"),
    ],
)
def test_other_rows_are_refused(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    (tmp_path / "binary.sh").write_bytes(b"\xff")
    with pytest.raises(DataError) as raised:
        open_os(tmp_path, row, scripts=str(tmp_path))
    assert problem in str(raised.value)
    assert "rows.jsonl:1" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("row", "turn", "score"),
    [
        (matching("7"), "Act: answer(7)", 1.0),  # in AgentBench's own form, a plain text is the answer
        (matching({"answer": "f(x)"}), "Act: answer(f(x))", 1.0),
        (matching({"answer": "7"}), 'Act: answer("7")', 0.0),
        (matching({"answer": "None"}), "Act: finish", 0.0),
        (matching({"regex": "^[A-Z]"}), "Act: finish", 0.0),  # no answer, not the answer `None`
        (matching({"answer": " 7", "strip": False}), "Act: answer( 7)", 1.0),
        (checking(["bash", "exit 1"]), "Act: finish", 0.0),  # one script, not the script `bash` and another one
        (checking(["python", "exit(1)"]), "Act: finish", 0.0),
        (checking("exit 1"), "Act: finish", 0.0),
        (checking({"language": "python", "code": "exit(1)"}), "Act: finish", 0.0),
        (checking(["test 1", "test $2 = x"]), "Act: answer(y)", 0.0),  # two scripts in bash
        (checking(["test 1", "test $1 = y"]), "Act: answer(y)", 1.0),
        (checking(["test $1 = None"]), "Act: finish", 1.0),  # a check is called as in AgentBench
    ],
)
def test_every_form_of_a_grader_is_used(tmp_path: Path, row: dict[str, Any], turn: str, score: float) -> None:
    assert play(open_os(tmp_path, row), turn)[0].score == score


def test_a_pattern_that_takes_too_long_costs_one_sample(tmp_path: Path) -> None:
    task = open_os(tmp_path, matching({"regex": "^(a+)+$"}))
    started = time.monotonic()
    assert play(task, f"Act: answer({'a' * 40}!)")[0].score == 0.0
    assert time.monotonic() - started < 30
    assert play(task, "Act: answer(aaa)")[0].score == 1.0


@pytest.mark.parametrize(
    ("commands", "shown"),
    [
        (["cd /usr && X=5", "pwd; echo $X"], "/usr\n5\n"),
        (["cat"], ""),
        (["read -p 'name? ' n; echo got $n", "echo on"], "on\n"),
        (["python3", "echo on"], "on\n"),
        (["sleep 100 &\necho started", "jobs | head -1"], "[1]+  Running                 sleep 100 &\n"),
        (["cat > /root/x <<'EOF'\nit's \"a\" $HOME\nEOF\ncat /root/x"], 'it\'s "a" $HOME\n'),
        (["cd /tmp; exit 3", "pwd"], "/\n"),
        (["echo 'abc", "echo on"], "on\n"),
        (["kill -9 $$", "echo on"], "on\n"),
        (["set -e; cd /usr", "false", "pwd"], "/\n"),
        (["su - nobody -s /bin/bash 2> /dev/null", "whoami"], "nobody\n"),
        (["printf '\\xff ok \\xe2\\x82\\xac\\n'"], "\ufffd ok €\n"),
    ],
)
def test_a_shell_behaves_as_one(tmp_path: Path, commands: list[str], shown: str) -> None:
    task = open_os(tmp_path, matching("7"), seconds=2.0, rounds=9)
    _, messages = play(task, *map(bash, commands), "Act: finish")
    assert messages[-1] == (f"The output of the OS:\n\n{shown}" if shown else "The output of the OS is empty.")
    assert not any("printf '" in message or " $?" in message for message in messages)


def test_known_answers_are_not_asked_where_none_is_known(tmp_path: Path) -> None:
    rows = [matching({"regex": "^[a-z]+$"}), matching({"answer": "done"}), checking("test $1 = x")]
    task = open_os(tmp_path, *rows)
    verdicts = asyncio.run(check(task, task.samples("search")))
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    assert [verdict.answer for verdict in verdicts].count("gold") == 1


@pytest.mark.needs("published data")
def test_the_shipped_task_prompts_as_the_paper_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTBENCH_OS", str(DATA / "os_interaction_170.json"))
    loaded = load_task(TaskConfig(task="agentbench-os"))
    assert isinstance(loaded, OsInteractionTaskConfig)
    task = OsInteractionTask(loaded)
    published = json.loads((DATA / "os_interaction_170.json").read_text())
    samples = [*task.samples("search"), *task.samples("heldout")]
    scored = json.loads((DATA / "os_interaction_110_ids.json").read_text())
    assert sorted(int(sample.id.partition("@")[0]) for sample in samples) == scored
    assert len(task.samples("search")) == len(task.samples("heldout")) == 55
    for sample in samples[::10]:
        assert task.prompt_of(sample) == published[sample.row["index"]]["problem"]
    model = Scripted(lambda messages: "Act: finish")
    asyncio.run(task.score(samples[0], model))
    assert model.requests[0][2:] == (Sampling(512), None)
    assert (loaded.rounds, loaded.output_longest, loaded.output_kept) == (5, 800, 780)


@pytest.mark.needs("published data")
def test_the_grader_is_correct_on_real_problems(tmp_path: Path) -> None:
    rows = json.loads((DATA / "os_interaction_170.json").read_text())
    faulty = {153, 64, 85}  # the first rejects its own example; the others count files under /proc
    rows = [row for row in rows if row["index"] % 7 == 0 and row["index"] not in faulty]
    rows += [
        row for row in json.loads((DATA / "os_interaction_170.json").read_text()) if row["index"] in (21, 52, 55, 144)
    ]
    task = open_os(tmp_path, *rows, boxes=8)
    verdicts = asyncio.run(check(task, task.samples("search")))
    assert sum(verdict.answer == "gold" for verdict in verdicts) == len(rows) >= 27
    assert [verdict for verdict in verdicts if not verdict.passed] == []
