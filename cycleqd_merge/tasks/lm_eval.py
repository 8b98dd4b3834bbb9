"""Task kind `lm_eval`: tasks of lm-evaluation-harness, with their prompts and grading, on this package's engines.

Prompts are built once, in the harness's order and with its few-shot seed; a sample's requests then go to the model like
those of any other task. Scores equal those of the harness's own model classes.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cycleqd_merge.config.tasks import LmEvalTaskConfig
from cycleqd_merge.config.validation_errors import suggestion
from cycleqd_merge.errors import DataError, TaskError, first_line
from cycleqd_merge.tasks.protocol import LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.splits import halves, samples_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED = 1234
"""lm-evaluation-harness's default seed for drawing few-shot examples."""
ANSWER_TOKENS = 256
"""lm-evaluation-harness's default for tasks that do not set a limit."""


class LmEvalTask:
    """A `Task` built from its definition. A group of the harness is one set of samples.

    Raises:
        TaskError: lm-evaluation-harness is not installed, has no such task, or cannot load it or its data; the task
            runs code or requires more than text; or the metric is not a mean of scores per sample.
        DataError: there is only one document.
    """

    semantics = 0

    def __init__(self, definition: LmEvalTaskConfig) -> None:
        self._definition = definition
        self._tasks = _load(definition)
        self._metrics = {name: _metric(name, task, definition.metric) for name, task in self._tasks.items()}
        places = [(name, place, doc) for name in self._tasks for place, doc in self._documents(name)]
        if len(places) < 2:
            raise DataError(f"{definition.task}: 1 document cannot be divided into a search and a held-out split")
        samples = samples_of([{"task": name, "document": doc} for name, _, doc in places])
        self._places = {sample.id: (name, place) for sample, (name, place, _) in zip(samples, places, strict=True)}
        self._samples = halves(samples, definition.seed)
        self._requests: dict[tuple[str, int], list[Instance]] = {}

    def _documents(self, name: str) -> Iterator[tuple[int, Any]]:
        return iter(self._tasks[name].doc_iterator(limit=self._definition.limit))

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if not self._requests:
            self._requests = {place: requests for name in self._tasks for place, requests in self._build(name, model)}
        name, _ = place = self._places[sample.id]
        task, (metric, filtered) = self._tasks[name], self._metrics[name]
        requests = [replace(request, resps=[], filtered_resps={}) for request in self._requests[place]]
        truncated = await asyncio.gather(*(_answer(request, model) for request in requests))
        for ensemble in task._filters:
            ensemble.apply(requests)
        found = task.process_results(requests[0].doc, [request.filtered_resps[filtered] for request in requests])
        return Outcome(float(found[metric]), _output(requests), any(truncated))

    def _build(self, name: str, model: LanguageModel) -> Iterator[tuple[tuple[str, int], list[Instance]]]:
        """The requests of each document, by its task and place; few-shot examples are drawn in the documents' order."""
        task, chat = self._tasks[name], self._definition.chat
        render = self._renderer(model) if chat else None
        task.set_fewshot_seed(FEWSHOT_SEED)
        for place, doc in self._documents(name):
            context = task.fewshot_context(
                doc,
                num_fewshot=task.config.num_fewshot or 0,
                system_instruction=self._definition.system,
                apply_chat_template=chat,
                fewshot_as_multiturn=self._definition.fewshot_as_multiturn,
                chat_template=render,
                gen_prefix=task.doc_to_prefix(doc),
            )
            requests = task.construct_requests(
                doc=doc,
                ctx=context,
                metadata=(name, place, task.config.repeats),
                apply_chat_template=chat,
                chat_template=render,
            )
            requests = requests if isinstance(requests, list) else [requests]
            yield (name, place), sorted(requests, key=lambda request: int(request.idx))

    def _renderer(self, model: LanguageModel) -> Callable[..., str]:
        def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
            return model.render(messages, self._definition.chat_template)  # looks at the last turn instead of the flag

        return render


def _load(definition: LmEvalTaskConfig) -> dict[str, Any]:
    """lm-evaluation-harness's task objects by name, with the definition's number of few-shot examples."""
    path, include = Path(definition.task), definition.include
    manager = _manager(include, include is None and not path.is_file())
    name = str(path) if path.is_file() else definition.task
    if not path.is_file() and name not in manager.all_tasks:
        hint = suggestion(name, manager.all_tasks)
        raise TaskError(f"task: lm-evaluation-harness has no task {name!r}, and no such file exists{hint}")
    if definition.overrides and name not in manager.all_subtasks:
        raise TaskError(
            f"overrides: {name} is not a single task of lm-evaluation-harness or of `include`; set `task` to one"
        )
    overridden = {"group": "overridden", "task": [{"task": name, **definition.overrides}]}
    try:
        loaded = manager.load([overridden if definition.overrides else name])["tasks"]
    except Exception as error:  # tasks are code of many authors, and download data: anything may be raised
        raise TaskError(f"task: {name} cannot be loaded: {first_line(error)}") from error
    for each, task in loaded.items():
        _require_supported(each, task)
        if definition.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", definition.num_fewshot)
    return dict(loaded)


@functools.cache
def _manager(include: str | None, defaults: bool) -> TaskManager:
    """An index of tasks. defaults: include the harness's own tasks, whose index takes seconds to build."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TaskError(
            "kind: lm_eval requires lm-evaluation-harness: `pip install 'cycleqd-merge[lm-eval]'`"
        ) from error
    return TaskManager(include_path=include, include_defaults=defaults)


def _require_supported(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"task: {name} runs model-written code on this machine without a sandbox; use a task of kind `code`"
        )
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task: {name} requires images or sound; engines support text only")
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise TaskError(f"task: {name} measures perplexity, which is not a score from 0 to 1; use another task")


def _metric(name: str, task: Any, stated: str | None) -> tuple[str, str]:
    """The metric and the output filter to score with.

    Raises:
        TaskError: the task does not have them, or the metric is not a mean over samples where higher is better.
    """
    from lm_eval.api.metrics import mean

    better = task.higher_is_better()
    means = [key for key, function in task.aggregation().items() if function is mean and better.get(key, True)]
    filters = [ensemble.name for ensemble in task._filters]
    metric, _, filtered = (stated or "").partition(",")
    metric, filtered = metric or next(iter(means), ""), filtered or filters[0]
    if metric not in means:
        if not means:
            raise TaskError(f"metric: {name} has no metric that is a mean over samples; use another task")
        raise TaskError(f"metric: {name} has no mean over samples called {metric!r}; allowed: {', '.join(means)}")
    if filtered not in filters:
        raise TaskError(f"metric: {name} has no filter {filtered!r}; allowed: {', '.join(filters)}")
    return metric, filtered


async def _answer(request: Instance, model: LanguageModel) -> bool:
    """Let the model answer a request; returns whether an answer was cut off at the token limit."""
    if request.request_type == "loglikelihood":
        found = await model.likelihood(*request.args)
        request.resps.append((sum(found.logprobs), found.greedy))
        return False
    prompt, options = request.args
    completions = [model.complete(prompt, _sampling(options, number)) for number in range(request.repeats or 1)]
    answers = await asyncio.gather(*completions)
    request.resps.extend(answer.text for answer in answers)
    return any(answer.truncated for answer in answers)


def _sampling(options: Mapping[str, Any], number: int) -> Sampling:
    """The harness's generation options as a `Sampling`: greedy unless `do_sample` is set."""
    stop = options.get("until") or []
    tokens = next((options[key] for key in _LIMIT_KEYS if options.get(key) is not None), ANSWER_TOKENS)
    temperature = float(options.get("temperature") or 0.0)
    if options.get("do_sample") is False:
        temperature = 0.0
    elif options.get("do_sample") and not temperature:
        temperature = 1.0
    unknown = [key for key in ("top_p", "top_k", "min_p") if temperature and options.get(key) not in (None, 0, 1, 1.0)]
    if unknown:
        raise TaskError(f"task: sampling with {', '.join(unknown)} is not supported; override its `generation_kwargs`")
    stop = [stop] if isinstance(stop, str) else stop
    return Sampling(int(tokens), temperature, tuple(text for text in stop if text), seed=number)


_LIMIT_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def _output(requests: Sequence[Instance]) -> str:
    """The model's text, or the continuation that it finds most likely."""
    if requests[0].request_type == "loglikelihood":
        return str(max(requests, key=lambda request: request.resps[0][0]).args[1])
    return str(requests[0].resps[0])
