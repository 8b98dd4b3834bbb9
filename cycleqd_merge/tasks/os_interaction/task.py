"""Task kind `os_interaction`: AgentBench's OS problems, several turns with a shell in a box of its own per sample."""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from cycleqd_merge.config.tasks import OsInteractionTaskConfig
from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.sandbox.boxes import Box, open_box
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, Root
from cycleqd_merge.sandbox.providers import Slots, sandbox_for
from cycleqd_merge.tasks.os_interaction.problems import OsProblem, Script, read_os_problem
from cycleqd_merge.tasks.os_interaction.protocol import printable, read_action, system_turn
from cycleqd_merge.tasks.prompting import Prompt
from cycleqd_merge.tasks.protocol import KnownAnswer, LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.rows import divide

_SCRIPT_SECONDS = 30.0  # for scripts of the data; one of them starts Python 90 times
_COMPILERS = {"c": "gcc -x c", "c++": "g++ -x c++"}


class OsInteraction:
    """A `Task` built from its definition; `folder` is where relative paths start.

    Raises:
        UserError: rows cannot be read, or are no OS problems.
    """

    def __init__(self, definition: OsInteractionTaskConfig) -> None:
        self._definition = definition
        self._samples = divide(definition.data, name=lambda row: str(row.get("index", "")))
        self._prompt = Prompt(definition)
        self._scripts = Path(definition.scripts or "")
        self._problems = {sample.id: self._problem(sample) for split in self._samples.values() for sample in split}
        self._root = Root(definition.root)
        self._limits = Limits(
            memory=definition.memory * MIB, disk=256 * MIB, output=65536, processes=256, seconds=definition.seconds
        )
        self._slots = Slots(definition.boxes)

    def _problem(self, sample: Sample) -> OsProblem:
        try:
            problem = read_os_problem(sample.row, self._scripts)
            self._prompt.of({"description": problem.description})
        except UserError as error:
            raise UserError(f"{error}; in row {sample.id}") from error
        return problem

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        return sandbox_for(self._root).description

    def prompt_of(self, sample: Sample) -> list[Message]:
        """The chat turns that a model is asked with first."""
        prompt = self._prompt.of({"description": self._problems[sample.id].description})
        assert not isinstance(prompt, str)
        return prompt

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        repeats = range(self._definition.repeats)
        outcomes = await asyncio.gather(*(self._play(sample, model, seed) for seed in repeats))
        mean = sum(outcome.score for outcome in outcomes) / len(outcomes)
        return Outcome(mean, outcomes[0].output, any(outcome.truncated for outcome in outcomes))

    async def _play(self, sample: Sample, model: LanguageModel, seed: int) -> Outcome:
        """One conversation in one box, and its grade."""
        problem = self._problems[sample.id]
        provider = (await asyncio.to_thread(sandbox_for, self._root)).provider
        async with self._slots.taken(), open_box(provider, self._root, self._limits) as box:
            try:
                await _prepare(box, problem)
            except BoxLost as error:  # nothing of the model has run yet
                raise InfrastructureError(f"sample {sample.id}: {error}") from error
            talk = Talk(self.prompt_of(sample), self._definition, seed)
            try:
                answer = await talk.hold(box, model, self._prompt)
                right = await _accepts(box, problem, answer)
            except BoxLost:
                right = False
            return Outcome(float(right), talk.said, talk.truncated)

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        problem = self._problems[sample.id]
        if problem.example is None:
            right = problem.answer or ""
            answers = {"gold": _saying(right), "one value changed": _saying(_changed(right))}
        else:
            example = problem.example
            answers = {"gold": _playing([example], lambda outputs: outputs[0])}
            if None in problem.check:
                answers["one value changed"] = _playing([example], lambda outputs: _changed(outputs[0]))
                other = self._another_example(sample)
                answers["another's answer"] = _playing([example, other], _unlike_the_first)
        stubs = {
            "stub": _saying("done"),
            "finish": lambda prompt: "Think: done.\n\nAct: finish",
            "empty": lambda prompt: "",
        }
        return [KnownAnswer(name, name == "gold", reply) for name, reply in {**answers, **stubs}.items()]

    def _another_example(self, sample: Sample) -> Script:
        """The example of the sample before this one that has one."""
        ids = list(self._problems)
        before = [*ids[ids.index(sample.id) :], *ids[: ids.index(sample.id)]][::-1]
        return next(example for each in before if (example := self._problems[each].example) is not None)


class Talk:
    """A conversation as it grows. `said`: all of the model's turns; `truncated`: the token limit cut one."""

    def __init__(self, messages: list[Message], definition: OsInteractionTaskConfig, seed: int) -> None:
        self._messages, self._definition, self._seed = messages, definition, seed
        self.said, self.truncated = "", False

    async def hold(self, box: Box, model: LanguageModel, prompt: Prompt) -> str:
        """Play the rounds; returns the answer, which is empty if there is none to the end."""
        definition = self._definition
        sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop), self._seed)
        for _ in range(definition.rounds):
            completion = await prompt.ask(model, self._messages, sampling)
            self.said += ("\n\n" if self.said else "") + printable(completion.text)
            self.truncated = self.truncated or completion.truncated
            action = read_action(completion.text)
            if action is None:
                return ""
            if action.kind == "commit":
                return str(action.content)
            finished = await box.shell(action.content or "")
            turn = system_turn(finished.output, definition.output_longest, definition.output_kept)
            self._messages += [{"role": "assistant", "content": completion.text}, {"role": "user", "content": turn}]
        return ""


async def _prepare(box: Box, problem: OsProblem) -> None:
    await box.shell(":")  # the shell is older than what the scripts do to its start files
    for script in problem.init:
        await _run(box, script)
    if problem.start is not None:
        await box.shell(problem.start)


async def _accepts(box: Box, problem: OsProblem, answer: str) -> bool:
    """Whether the answer matches, or every script of the check succeeds on it."""
    if problem.answer is not None or problem.pattern is not None:
        answer = answer.strip() if problem.strip else answer
        if problem.answer is not None:
            return answer == problem.answer
        return re.search(problem.pattern or "", answer) is not None
    parameters = [answer]
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


def _saying(answer: str) -> Callable[[str | Sequence[Message]], str]:
    return lambda prompt: f"Think: I know.\n\nAct: answer({answer})"


def _playing(
    examples: Sequence[Script], answer: Callable[[list[str]], str]
) -> Callable[[str | Sequence[Message]], str]:
    """A model that runs examples as a check would, and answers with what is made of their outputs."""
    acts = [f"Think: so.\n\nAct: bash\n\n```bash\nbash -c {shlex.quote(each.code)}\n```" for each in examples]

    def reply(prompt: str | Sequence[Message]) -> str:
        assert not isinstance(prompt, str)
        turns = [str(message["content"]) for message in prompt]
        said = [told for act, told in itertools.pairwise(turns) if act in acts]
        if len(said) < len(acts):
            return acts[len(said)]
        outputs = [told.removeprefix("The output of the OS:\n\n").strip() for told in said]
        return f"Think: that is it.\n\nAct: answer({answer(outputs)})"

    return reply


def _unlike_the_first(outputs: list[str]) -> str:
    """The last output, or if that happens to be the first one's too, the changed one."""
    return outputs[-1] if outputs[-1] != outputs[0] else _changed(outputs[-1])


def _changed(text: str) -> str:
    """A text with its last number one higher, or with a letter more."""
    digits = list(re.finditer(r"\d+", text))
    if not digits:
        return f"{text}x"
    last = digits[-1]
    return f"{text[: last.start()]}{int(last.group()) + 1}{text[last.end() :]}"
