"""The paper's three tasks, as shipped, in one evaluation: a model that knows all answers scores 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.sandbox.protocol import RootFs
from cycleqd_merge.tasks.protocol import Checkable, KnownAnswer, Prompting
from cycleqd_merge.tasks.suite import Suite, open_task
from tests.components import DATA
from tests.tasks.scripted import Scripted, shipped

SAMPLES = 6


class KnowsAnswers(Scripted):
    """An engine without weights: it recognises a conversation by its first turns, and gives a known answer."""

    def load(self, candidate: Candidate) -> None:
        """Does nothing."""

    def prepare(self, candidate: Candidate) -> None:
        """Does nothing."""

    def release(self) -> None:
        """Does nothing."""

    def restore(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def replies(suite: Suite, chosen: Callable[[KnownAnswer], bool]) -> Callable[[Any], str]:
    """For each conversation, the first known answer of its sample that is `chosen`."""
    known = {}
    for task in suite:
        assert isinstance(task.task, Checkable)
        assert isinstance(task.task, Prompting)
        for sample in task.samples("search")[:SAMPLES]:
            answers = task.task.known_answers(sample)
            known[json.dumps(task.task.prompt_of(sample))] = next(filter(chosen, answers)).reply
    assert len(known) == SAMPLES * len(suite)

    def reply(messages: Any) -> str:
        openings = (json.dumps(messages[:turns]) for turns in range(len(messages), 0, -1))
        return next(known[opening] for opening in openings if opening in known)(messages)

    return reply


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_root: RootFs) -> Suite:
    """The tasks as the paper's recipe names them, on a copy of their data."""
    monkeypatch.setenv("AGENTBENCH_DB", (DATA / "data_dbbench_standard_dev.jsonl").as_uri())
    monkeypatch.setenv("AGENTBENCH_OS", str(DATA / "os_interaction_170.json"))
    with (DATA / "MbppPlus-2023-11-16.jsonl").open() as lines:
        (tmp_path / "mbpp.jsonl").write_text("".join(islice(lines, 4 * SAMPLES)))
    uses = [
        TaskConfig(task=shipped("mbpp-plus", tmp_path / "mbpp.jsonl"), name="coding"),
        TaskConfig(task="agentbench-db", name="db"),
        TaskConfig(task="agentbench-os", name="os"),
    ]
    return tuple(open_task(use, 0.0) for use in uses)


@pytest.mark.needs("mariadb", "published data")
@pytest.mark.parametrize("right", [True, False])
def test_all_three_at_once_accept_right_answers_and_reject_wrong_ones(suite: Suite, right: bool) -> None:
    """The wrong answers are the closest ones: another sample's answer, or one value changed."""
    engine = KnowsAnswers(replies(suite, lambda answer: answer.right is right))
    worker = Worker(engine, suite)
    evaluation = worker.evaluate(None, limit=SAMPLES)
    worker.close()
    assert evaluation.scores == (float(right),) * 3
    assert [len(result.outcomes) for result in evaluation.results.values()] == [SAMPLES] * 3
