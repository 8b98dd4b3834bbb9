"""Task kind `dbbench`: its requests, when conversations end, and how answers and tables are graded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.loading import DEFINITIONS
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import DataError, InfrastructureError, TaskError
from cycleqd_merge.tasks.check import check
from cycleqd_merge.tasks.database import mariadb, private_server
from cycleqd_merge.tasks.database.server import URL_VARIABLE, Server
from cycleqd_merge.tasks.database.task import DbbenchTask
from cycleqd_merge.tasks.database.turns import is_answer
from cycleqd_merge.tasks.protocol import Outcome, Sampling
from cycleqd_merge.tasks.suite import open_task
from tests.cli.conftest import Answer, cycleqd_merge
from tests.components import DATA
from tests.models import edit_json, make_base, make_expert, make_task
from tests.tasks.agentbench import CELLS, INSERT, ROWS, UPDATE, digest, open_dbbench, row
from tests.tasks.scripted import Scripted

ANSWER = 'Action: Answer\nFinal Answer: ["2"]'


def operation(statement: str) -> str:
    return f"I shall look.\nAction: Operation\n```sql\n{statement}\n```\nand see."


def turns(*texts: str) -> Callable[[Any], str]:
    """One turn after another; the last one is repeated."""
    return lambda messages: texts[min(sum(turn["role"] == "assistant" for turn in messages), len(texts) - 1)]


def outcomes(task: DbbenchTask, reply: Callable[[Any], str]) -> tuple[list[Outcome], Scripted]:
    """The outcomes of all samples, scored at once, and the model with its recorded requests."""
    model = Scripted(reply)

    async def score() -> list[Outcome]:
        return list(await asyncio.gather(*(task.score(sample, model) for sample in task.samples("search"))))

    return asyncio.run(score()), model


def scores(task: DbbenchTask, *texts: str) -> list[float]:
    return [outcome.score for outcome in outcomes(task, turns(*texts))[0]]


@pytest.mark.needs("mariadb")
def test_statements_run_and_their_results_are_shown(tmp_path: Path) -> None:
    task = open_dbbench(tmp_path, ROWS[0], max_new_tokens=7, stop=["!"], chat_template="{{ messages }}")
    count = operation("SELECT COUNT(*) AS n,\n  MAX(Title) FROM `Jazz Albums` WHERE `No.` = 2;")
    (outcome,), model = outcomes(task, turns(count, operation("SELECT nothing"), ANSWER))
    assert outcome == Outcome(1.0, ANSWER)
    *_, (_, messages, sampling, template) = model.requests
    assert (sampling, template) == (Sampling(7, stop=("!",)), "{{ messages }}")
    assert [turn["content"] for turn in messages] == [
        "Use SQL.\nWhat of 2?\nThe name of this table is Jazz Albums.",
        count,
        "[(2, 'Idle Moments')]",
        operation("SELECT nothing"),
        "1054 (42S22): Unknown column 'nothing' in 'SELECT'",
    ]


@pytest.mark.needs("mariadb")
def test_a_write_is_graded_by_the_table(tmp_path: Path) -> None:
    task = open_dbbench(tmp_path, *ROWS)
    assert scores(task, operation(INSERT), ANSWER) == [1.0, 0.0, 1.0, 0.0]
    assert scores(task, operation(UPDATE), "") == [0.0, 0.0, 0.0, 1.0]
    assert scores(task, operation(INSERT), operation("DELETE FROM `Jazz Albums` WHERE Title = 'Karma'"), ANSWER)[2] == 0
    assert scores(task, operation("DROP TABLE `Jazz Albums`"), ANSWER) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.needs("mariadb")
def test_at_most_the_given_number_of_rounds_is_played(tmp_path: Path) -> None:
    """The model gets one more turn to answer; a statement in that turn is not run."""
    several = [*CELLS, *[("Karma", "4", "Pharoah Sanders")] * 2]
    task = open_dbbench(tmp_path, row("INSERT", [INSERT], several), rounds=2)
    (outcome,), model = outcomes(task, turns(operation(INSERT)))
    assert (outcome.score, len(model.requests)) == (1.0, 3)


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize(
    "turn",
    [
        'Final Answer: ["2"]',  # no line before it
        "Action: Answer\nThe answer is 2.",
        "Action: Operation\nSELECT 2",
        "Action: Operation\n```python\n2\n```\n",
        "",
    ],
)
def test_a_malformed_turn_ends_without_an_answer(tmp_path: Path, turn: str) -> None:
    (outcome,), model = outcomes(open_dbbench(tmp_path, ROWS[0]), turns(turn))
    assert (outcome.score, len(model.requests)) == (0.0, 1)


@pytest.mark.parametrize(
    ("text", "label", "right"),
    [
        ('["2"]', ["2"], True),
        ("[2.0]", ["2"], True),
        (" 2", ["2.0"], True),
        ("['02']", ["2"], True),
        ('["2", "2"]', ["2"], True),  # as sets
        ('["b", "a"]', ["a", "b"], True),
        ('["a", "b", "c"]', ["a", "b"], False),
        ("[2, 3]", ["2", "3"], False),
        ('["Paris"]', ["Paris"], True),
        ("('Paris',)", ["Paris"], True),
        ('["paris"]', ["Paris"], False),
        ("Paris", ["Paris"], True),
        (" Paris", ["Paris"], False),  # text that is not a list is compared with its blanks, as in AgentBench
        ("[]", ["none"], False),
        ("[[2]]", ["2"], False),
        ("[[1], [2]]", ["1", "2"], False),
        ("[1" + "0" * 400 + "]", ["2"], False),
        ("[1 + 1]", ["2"], False),
        ("[" * 5000, ["2"], False),
        ('[__import__("os").abort()]', ["2"], False),
    ],
)
def test_answers_are_read_as_literals_and_compared_as_in_agentbench(text: str, label: list[str], right: bool) -> None:
    assert is_answer(f"Action: Answer\nFinal Answer:{text}", label) is right


@pytest.mark.needs("mariadb")
def test_long_results_are_truncated(tmp_path: Path) -> None:
    long = operation("SELECT REPEAT('x', 3000)")
    task = open_dbbench(tmp_path, ROWS[0])
    (_,), model = outcomes(task, turns(long, ANSWER))
    shown = model.requests[1][1][-1]["content"]
    assert shown == "[('" + "x" * 797 + "[TRUNCATED]"


@pytest.mark.needs("mariadb")
def test_a_malformed_table_is_repaired(tmp_path: Path) -> None:
    """Unnamed or repeated columns and rows of the wrong length, for which AgentBench has an empty table or none."""
    broken = row("other", ["3"])
    info = broken["table"]["table_info"]
    info["columns"] = [{"name": name} for name in ("Score", "", "score")]
    info["rows"] = [["1", "2", "3", "4"], ["5"], []]
    model = outcomes(open_dbbench(tmp_path, broken), turns(operation("SELECT * FROM `Jazz Albums`"), ""))[1]
    assert model.requests[1][1][-1]["content"] == "[('1', '2', '3'), ('5', None, None)]"
    info["columns"] = []
    with pytest.raises(DataError, match=r"rows\.jsonl:1: table: a name and at least one column are required"):
        open_dbbench(tmp_path, broken)


@pytest.mark.parametrize("key", ["label", "type", "table", "answer_md5"])
def test_an_incomplete_row_is_reported_when_the_task_is_opened(tmp_path: Path, key: str) -> None:
    lacking = {name: value for name, value in ROWS[2].items() if name != key}
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: {key}: "):
        open_dbbench(tmp_path, lacking)


@pytest.mark.needs("mariadb")
def test_known_answers_check_the_grader(tmp_path: Path) -> None:
    task = open_dbbench(tmp_path, *ROWS)
    verdicts = asyncio.run(check(task, task.samples("search")))
    assert len(verdicts) == 5 * len(ROWS)
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    wrong = row("INSERT", [INSERT], [("quite", "another", "table")])
    task = open_dbbench(tmp_path, wrong, ROWS[3])
    wrongly_graded = [verdict for verdict in asyncio.run(check(task, task.samples("search"))) if not verdict.passed]
    assert [(verdict.sample, verdict.answer) for verdict in wrongly_graded] == [(task.samples("search")[0].id, "gold")]


def test_a_missing_database_is_reported_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_with_database: Path
) -> None:
    monkeypatch.setattr(private_server, "_PATH", str(tmp_path))
    for command in ("plan", "evolve"):
        answer: Answer = cycleqd_merge(command, recipe_with_database)
        assert answer.code == 2
        output = " ".join((answer.out + answer.err).split())
        assert "task sql: database: mariadb-install-db is not installed; install MariaDB: `apt install m" in output


@pytest.mark.needs("mariadb")
def test_a_conversation_that_does_not_fit_the_model_is_reported_before_a_run(recipe_with_database: Path) -> None:
    setting = "tasks.0.task.max_new_tokens=300"
    answer = cycleqd_merge("plan", recipe_with_database, "--no-measure", "--set", setting)
    assert answer.code == 2
    assert "task sql: 8 of 8 rows do not fit the model's 256 tokens" in " ".join(answer.err.split())
    tokenizer = recipe_with_database.parent / "base" / "tokenizer_config.json"
    (tokenizer.parent / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(tokenizer, chat_template=None)
    answer = cycleqd_merge("plan", recipe_with_database, "--no-measure")
    assert "task sql: its prompts are chat turns and the model has no chat template" in " ".join(answer.err.split())


@pytest.mark.needs("mariadb")
def test_a_database_that_fails_pauses_the_run_and_is_not_a_score(
    monkeypatch: pytest.MonkeyPatch, recipe_with_database: Path
) -> None:
    """The server works when the run begins, and fails later."""
    monkeypatch.setattr(mariadb, "_existing", lambda url: Server({"unix_socket": "/nowhere/socket"}, "the server"))
    monkeypatch.setattr(mariadb, "require_server", lambda: "a server")
    monkeypatch.setenv(URL_VARIABLE, "mysql://localhost")
    answer = cycleqd_merge("evolve", recipe_with_database)
    assert answer.code == 1
    assert "database: the server: " in answer.err
    journal = (recipe_with_database.parent / "run" / "journal.jsonl").read_text()
    assert '"event": "result"' not in journal.replace('":"', '": "')
    monkeypatch.undo()
    assert cycleqd_merge("evolve", recipe_with_database).code == 0  # it resumes once there is a server


@pytest.fixture
def recipe_with_database(tmp_path: Path) -> Path:
    """A run of one generation over two tasks, one of them on a database."""
    base = make_base(tmp_path / "base")
    task = open_dbbench(tmp_path, *ROWS, max_new_tokens=2, rounds=1)._definition.model_dump(mode="json")
    stated = {
        "base": str(base),
        "experts": {name: str(make_expert(base, tmp_path / name, seed)) for seed, name in ((1, "one"), (2, "two"))},
        "tasks": [{"task": task, "name": "sql", "bounds": [0.0, 1.0]}, make_task(tmp_path, "letters")],
        "evolution": {"generations": 1, "mutation": {"kind": "none"}},
        "confirm": {"share": 0},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(stated))
    return path


@pytest.mark.needs("mariadb", "published data")
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_the_shipped_task_accepts_its_gold_answers_only(every: int, tmp_path: Path) -> None:
    """Of the 360 rows of the file, 120 labels and 239 of 240 writes; row 225's own SQL does not produce its digest."""
    rows = list(range(0, 360, every))
    text = (DEFINITIONS / "agentbench-db.yaml").read_text()
    head, rest = text.split("    url: ")
    sha256 = rest.split("\n")[1]
    tail = rest[rest.index("  seed: 0") :]
    path = DATA / "data_dbbench_standard_dev.jsonl"
    (tmp_path / "db.yaml").write_text(f"{head}    path: {path}\n{sha256}\n    only: {rows}\n{tail}")
    verdicts = cycleqd_merge("task", "check", tmp_path / "db.yaml", "--json").json
    golden = [verdict for verdict in verdicts if verdict["right"]]
    assert (len(golden), sum(verdict["score"] for verdict in golden)) == (len(rows), len(rows) - 1)
    assert [verdict for verdict in verdicts if not verdict["right"] and verdict["score"]] == []


@pytest.mark.needs("published data")
def test_the_shipped_task_has_the_papers_samples_in_equal_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    path = DATA / "data_dbbench_standard_dev.jsonl"
    monkeypatch.setenv("AGENTBENCH_DB", path.resolve().as_uri())
    task = open_task(TaskConfig(task="agentbench-db"), 0.0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ids = json.loads((DATA / "dbbench_341_ids.json").read_text())
    halves = [[sample.row for sample in task.samples(split)] for split in ("search", "heldout")]
    assert [len(half) for half in halves] == [171, 170]
    assert sorted(rows.index(row) for half in halves for row in half) == ids


@pytest.mark.needs("mariadb")
def test_the_digest_equals_agentbenchs(tmp_path: Path) -> None:
    """Compared with a second implementation, on cells that a database could misread."""
    cells = [("é", "NULL", "1"), ("", "'", "\\"), ("a,b", "c", "\n"), ("A", "a ", "Å"), *CELLS]
    sample = row("INSERT", ["-"], cells)
    sample["table"]["table_info"]["rows"] = [list(each) for each in cells]
    assert sample["answer_md5"] == digest(cells)
    assert scores(open_dbbench(tmp_path, sample), ANSWER) == [1.0]


def test_a_failing_server_is_a_task_error_before_a_run_and_an_infrastructure_error_during_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, "mysql://nobody@127.0.0.1:1")
    task = open_dbbench(tmp_path, ROWS[0])
    with pytest.raises(TaskError, match=f"{URL_VARIABLE}: database: 127.0.0.1:1: "):
        task.environment()
    with pytest.raises(InfrastructureError, match=r"database: 127\.0\.0\.1:1: "):
        scores(task, ANSWER)
