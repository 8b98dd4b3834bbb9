"""A scripted language model that records its requests, and task definitions over rows written for a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from cycleqd_merge.config.anchoring import anchored_task
from cycleqd_merge.config.loading import DEFINITIONS
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Message, Outcome, Sample, Sampling


@dataclass
class Scripted:
    """Answers by `answer`, scores continuations by `likelihoods`, and records all requests in `requests`."""

    answer: Callable[[Any], str] = lambda prompt: ""
    likelihoods: Mapping[str, list[float]] = field(default_factory=dict)
    requests: list[tuple[Any, ...]] = field(default_factory=list)

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        self.requests.append(("chat", list(messages), sampling, template))
        return Completion(self.answer(messages), 1, truncated=False)

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        self.requests.append(("complete", prompt, sampling))
        return Completion(self.answer(prompt), 1, truncated=True)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        self.requests.append(("logprobs", prompt, continuation, template))
        return self.likelihoods[continuation]

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        self.requests.append(("likelihood", prompt, continuation))
        return Likelihood(tuple(self.likelihoods[continuation]), continuation == self.answer(prompt))

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def write_rows(path: Path, *rows: Mapping[str, Any]) -> Path:
    """A JSONL file of `rows`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def defined(folder: Path, stated: Mapping[str, Any]) -> Any:
    """A task definition, as if it were written in a file in `folder`."""
    return anchored_task(TypeAdapter(TaskDefinitionConfig).validate_python(stated), folder)


def shipped(name: str, rows: Path) -> dict[str, Any]:
    """A shipped task definition, with other rows."""
    definition: dict[str, Any] = YAML(typ="safe", pure=True).load(DEFINITIONS / f"{name}.yaml")
    return {**definition, "data": {"rows": {"path": str(rows)}}}


def open_task(folder: Path, *rows: Mapping[str, Any], **keys: Any) -> GenerateTask:
    """A `generate` task over `rows`, the same for both splits; by default it completes `{{ q }}`, scored exactly."""
    write_rows(folder / "rows.jsonl", *rows)
    stated = {
        "kind": "generate",
        "data": {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}},
        "scorer": {"kind": "exact"},
        **({} if "messages" in keys else {"prompt": "{{ q }}"}),
        **keys,
    }
    return GenerateTask(defined(folder, stated))


def outcomes(task: GenerateTask, model: Scripted) -> list[Outcome]:
    """The outcomes of the task's search samples, scored one after another."""

    async def score(samples: Sequence[Sample]) -> list[Outcome]:
        return [await task.score(sample, model) for sample in samples]

    return asyncio.run(score(task.samples("search")))
