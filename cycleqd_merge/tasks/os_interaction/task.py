"""Task kind `os_interaction`: AgentBench's OS problems. The model uses a shell, turn by turn, in a box per sample."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from cycleqd_merge.bounded import LimitExceeded
from cycleqd_merge.config.tasks import OsInteractionTaskConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.sandbox.boxes import Box, open_box
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, RootFs
from cycleqd_merge.sandbox.providers import sandbox_for
from cycleqd_merge.sandbox.slots import Slots
from cycleqd_merge.tasks.attempts import separate_attempt
from cycleqd_merge.tasks.limits import note_limit
from cycleqd_merge.tasks.matching import is_found
from cycleqd_merge.tasks.os_interaction.problems import OsProblem, Script, read_os_problem
from cycleqd_merge.tasks.os_interaction.turns import read_action, system_turn, without_control_codes
from cycleqd_merge.tasks.prompting import LaterTurns, Prompt, with_answer
from cycleqd_merge.tasks.protocol import (
    KnownAnswer,
    LanguageModel,
    Message,
    Outcome,
    Sample,
    Sampling,
    Targets,
    TaskSplit,
)
from cycleqd_merge.tasks.splits import place_of, read_splits
from cycleqd_merge.tasks.targets import gold_targets

log = logging.getLogger(__name__)

_STARTS = 3  # of a box that does not survive its preparation
_SCRIPT_SECONDS = 30.0  # for the data's scripts; one of them starts Python 90 times
_COMPILERS = {"c": "gcc -x c", "c++": "g++ -x c++"}


class OsInteractionTask:
    """A `Task` built from its definition.

    Raises:
        DataError: rows cannot be read, or are not OS problems.
        RecipeError: a template is not valid.
    """

    semantics = 2

    def __init__(self, definition: OsInteractionTaskConfig) -> None:
        self._definition = definition
        self._samples = read_splits(definition.data, lambda row: str(row.get("index", "")))
        self._prompt = Prompt(definition)
        self._scripts = Path(definition.scripts or "")
        self._problems = {sample.id: self._problem(sample) for samples in self._samples.values() for sample in samples}
        self._root = RootFs(definition.root)
        self._limits = Limits(
            memory=definition.memory * MIB, disk=256 * MIB, output=65536, processes=256, seconds=definition.seconds
        )
        self._slots = Slots(definition.boxes)

    def _problem(self, sample: Sample) -> OsProblem:
        try:
            problem = read_os_problem(sample.row, self._scripts)
            self._prompt.render({"description": problem.description})
        except DataError as error:
            raise DataError(f"{place_of(sample)}: {error}") from error
        return problem

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        return sandbox_for(self._root).description

    def prompt_of(self, sample: Sample) -> list[Message]:
        """The chat turns that open a sample's conversation."""
        prompt = self._prompt.render({"description": self._problems[sample.id].description})
        assert not isinstance(prompt, str)
        return prompt

    @property
    def later_turns(self) -> LaterTurns:
        """What follows a conversation's first prompt."""
        definition = self._definition
        longest = system_turn(b"x" * (definition.output_longest + 1), definition.output_longest, definition.output_kept)
        reply = max(len(longest), len(system_turn(b"x" * definition.output_longest, definition.output_longest, 0)))
        return LaterTurns(definition.rounds, reply, "`max_new_tokens`, `rounds` or `output_longest`")

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        repeats = range(self._definition.repeats)
        outcomes = await asyncio.gather(*(self._attempt(sample, model, seed) for seed in repeats))
        mean = sum(outcome.score for outcome in outcomes) / len(outcomes)
        return Outcome(mean, outcomes[0].output, any(outcome.truncated for outcome in outcomes))

    async def _attempt(self, sample: Sample, model: LanguageModel, seed: int) -> Outcome:
        with separate_attempt() as attempt:
            outcome = await self._play(sample, model, seed)
            attempt.score = outcome.score
        return outcome

    async def _play(self, sample: Sample, model: LanguageModel, seed: int) -> Outcome:
        """One conversation in one box, and its grade."""
        problem = self._problems[sample.id]
        provider = (await asyncio.to_thread(sandbox_for, self._root)).provider
        conversation = Conversation(self.prompt_of(sample), self._definition, seed)
        async with self._slots.slot():
            for _ in range(_STARTS):
                async with open_box(provider, self._root, self._limits) as box:
                    try:
                        await _prepare(box, problem)
                    except BoxLost:  # by the problem's scripts, or by the host, as for lack of memory
                        continue
                    try:
                        answer = await conversation.run(box, model, self._prompt)
                        right = await _accepts(box, problem, answer)
                    except BoxLost:
                        right = False
                    return Outcome(float(right), conversation.output, conversation.truncated)
        log.warning("sample %s: its own scripts end the box that they prepare; it scores 0", sample.id)
        note_limit("preparing the system", LimitExceeded(f"ended the box {_STARTS} times"))
        return Outcome(0.0, "", False)

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """The model's turns, or those of a gold conversation if the definition asks for it."""
        return Targets(outcome.score) if self._definition.fit == "answers" else gold_targets(self, sample)

    def reference_of(self, sample: Sample) -> str:
        """The answer, its pattern, or a script that gives the answer or does the job."""
        problem = self._problems[sample.id]
        example = problem.example.code if problem.example is not None else "(decided by the scripts of `check`)"
        return problem.answer or problem.pattern or example

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        problem = self._problems[sample.id]
        answers: dict[str, Callable[[str | Sequence[Message]], str]] = {}
        if problem.answer is not None:
            right = problem.answer
            answers = {"gold": _replying(right), "one value changed": _replying(_changed(right))}
        elif problem.example is not None:
            example = problem.example
            answers = {"gold": _running([example], lambda outputs: outputs[0])}
            if None in problem.check:
                answers["one value changed"] = _running([example], lambda outputs: _changed(outputs[0]))
                other = self._another_example(sample)
                answers["another problem's answer"] = _running([example, other], _last_unless_equal)
        stubs = {
            "stub": _replying("done"),
            "finish": lambda prompt: "Think: done.\n\nAct: finish",
            "empty": lambda prompt: "",
        }
        if problem.answer == "done" or (problem.pattern is not None and is_found(problem.pattern, "done")):
            del stubs["stub"]
        return [KnownAnswer(name, name == "gold", reply) for name, reply in {**answers, **stubs}.items()]

    def _another_example(self, sample: Sample) -> Script:
        """The example of the last sample before this one that has one, wrapping around at the first."""
        ids = list(self._problems)
        before = [*ids[ids.index(sample.id) :], *ids[: ids.index(sample.id)]][::-1]
        return next(example for each in before if (example := self._problems[each].example) is not None)


class Conversation:
    """A conversation in progress. output: all of the model's turns. truncated: one was cut off at the token limit."""

    def __init__(self, messages: list[Message], definition: OsInteractionTaskConfig, seed: int) -> None:
        self._messages, self._definition, self._seed = messages, definition, seed
        self.output, self.truncated = "", False

    async def run(self, box: Box, model: LanguageModel, prompt: Prompt) -> str | None:
        """Play all rounds; returns the answer: None if the model finishes without one, empty if it does neither."""
        definition = self._definition
        sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop), self._seed)
        for _ in range(definition.rounds):
            completion = await prompt.ask(model, self._messages, sampling)
            self.output += ("\n\n" if self.output else "") + without_control_codes(completion.text)
            self.truncated = self.truncated or completion.truncated
            self._messages = with_answer(self._messages, completion.text)
            action = read_action(str(self._messages[-1]["content"]))  # none in an empty answer: the context is full
            if action is None:
                return ""
            if action.kind == "commit":
                return action.content
            finished = await box.shell(action.content or "")
            turn = system_turn(finished.output, definition.output_longest, definition.output_kept)
            self._messages.append({"role": "user", "content": turn})
        return ""


async def _prepare(box: Box, problem: OsProblem) -> None:
    await box.shell(":")  # starts the shell before scripts change its start-up files
    for script in problem.init:
        await _run(box, script)
    if problem.start is not None:
        await box.shell(problem.start)


async def _accepts(box: Box, problem: OsProblem, answer: str | None) -> bool:
    """Whether the answer matches, or every script of the check accepts it (`None`, as in AgentBench, if there is none).

    A conversation that was finished without an answer matches nothing."""
    if problem.answer is not None or problem.pattern is not None:
        if answer is None:
            return False
        answer = answer.strip() if problem.strip else answer
        if problem.answer is not None:
            return answer == problem.answer
        return await asyncio.to_thread(is_found, problem.pattern or "", answer)
    parameters = [str(answer)]
    for script in problem.check:
        called = script if script is not None else problem.example
        assert called is not None
        finished = await _run(box, called, parameters)
        if finished.code != 0:
            return False
        parameters.append(finished.output.decode(errors="replace").replace("\0", ""))
    return True


async def _run(box: Box, script: Script, parameters: Sequence[str] = ()) -> ProcessResult:
    if script.language == "bash":
        called = ["bash", "-c", script.code, *(["--", *parameters] if parameters else [])]
    elif script.language == "python":
        called = ["python3", "-c", script.code, *parameters]
    else:
        compile_ = f"{_COMPILERS[script.language]} -o /tmp/a.out -"
        compiled = await box.run(["sh", "-c", compile_], script.code.encode(), seconds=_SCRIPT_SECONDS)
        if compiled.code != 0:
            return compiled
        called = ["/tmp/a.out", *parameters]
    return await box.run(called, seconds=_SCRIPT_SECONDS)


def _replying(answer: str) -> Callable[[str | Sequence[Message]], str]:
    return lambda prompt: f"Think: I know.\n\nAct: answer({answer})"


def _running(
    examples: Sequence[Script], answer: Callable[[list[str]], str]
) -> Callable[[str | Sequence[Message]], str]:
    """A model that runs examples as a check would, and answers with a function of their outputs."""
    acts = [f"Think: so.\n\nAct: bash\n\n```bash\nbash -c {shlex.quote(each.code)}\n```" for each in examples]

    def reply(prompt: str | Sequence[Message]) -> str:
        assert not isinstance(prompt, str)
        turns = [str(message["content"]) for message in prompt]
        results = [result for act, result in itertools.pairwise(turns) if act in acts]
        if len(results) < len(acts):
            return acts[len(results)]
        outputs = [result.removeprefix("The output of the OS:\n\n").strip() for result in results]
        return f"Think: that is it.\n\nAct: answer({answer(outputs)})"

    return reply


def _last_unless_equal(outputs: list[str]) -> str:
    """The last output; changed if it happens to equal the first, which is the correct one."""
    return outputs[-1] if outputs[-1] != outputs[0] else _changed(outputs[-1])


def _changed(text: str) -> str:
    """A text with its last number increased by one; without numbers, with a letter appended."""
    digits = list(re.finditer(r"\d+", text))
    if not digits:
        return f"{text}x"
    last = digits[-1]
    return f"{text[: last.start()]}{int(last.group()) + 1}{text[last.end() :]}"
