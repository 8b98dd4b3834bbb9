"""A conversation that fills the model's context ends there, with its own sample: an empty, truncated answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.tasks.os_interaction.task import OsInteractionTask
from cycleqd_merge.tasks.protocol import Completion, Message, Sampling
from tests import chat_templates as known
from tests.evaluation.conftest import Models, make_models
from tests.tasks.agentbench import CELLS, ROWS, open_dbbench
from tests.tasks.scripted import Scripted, defined, write_rows


class Short(Scripted):
    """A model whose context has room for a number of turns, all with the same answer."""

    room: int = 2

    async def chat(self, messages: Any, sampling: Sampling, template: Any = None, *_: Any) -> Completion:
        self.requests.append(("chat", list(messages), sampling, template))
        if len(messages) > 2 * self.room:
            return Completion("", 0, truncated=True)
        return Completion(self.answer(messages), 1, truncated=False)


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize(("row", "statement", "score"), [(0, "SELECT 1", 0.0), (2, ROWS[2]["label"][0], 1.0)])
def test_a_database_conversation_ends_and_its_table_is_graded(
    tmp_path: Path, row: int, statement: str, score: float
) -> None:
    task = open_dbbench(tmp_path, ROWS[row], rounds=9)
    model = Short(lambda messages: f"Action: Operation\n```sql\n{statement if len(messages) == 1 else 'SELECT 1'}\n```")
    outcome = asyncio.run(task.score(task.samples("search")[0], model))
    assert (outcome.score, outcome.truncated, len(model.requests)) == (score, True, 3)
    assert len(CELLS) == 3


@pytest.mark.usefixtures("own_root")
def test_a_shell_conversation_ends_and_its_system_is_graded(tmp_path: Path) -> None:
    check = [["bash", "test -e /root/made"]]
    write_rows(tmp_path / "rows.jsonl", {"description": "Make /root/made.", "check": check})
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    stated = {"kind": "os_interaction", "data": data, "chat": True, "prompt": "{{ description }}", "rounds": 9}
    task = OsInteractionTask(defined(tmp_path, stated))
    for command, score in (("true", 0.0), ("touch /root/made", 1.0)):
        model = Short(lambda _, command=command: f"Act: bash\n```bash\n{command}\n```")  # type: ignore[misc]
        outcome = asyncio.run(task.score(task.samples("search")[0], model))
        assert (outcome.score, outcome.truncated, len(model.requests)) == (score, True, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


def test_a_template_that_does_not_end_on_some_turns_costs_their_answer_alone(models: Models) -> None:
    engine = models.engine()
    template = "{% if '7' in messages[0].content %}" + known.LOOPS + "{% endif %}" + known.CHATML
    turns: list[list[Message]] = [[{"role": "user", "content": text}] for text in ("1", "7", "2")]

    async def ask() -> list[Completion]:
        return list(await asyncio.gather(*(engine.chat(each, Sampling(3), template) for each in turns)))

    first, endless, last = asyncio.run(ask())
    engine.close()
    assert endless == Completion("", 0, truncated=True)
    assert first.tokens > 0
    assert last.tokens > 0
