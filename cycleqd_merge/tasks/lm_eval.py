"""Task kind `lm_eval`: tasks of lm-evaluation-harness, with their prompts and grading, on this package's engines.

Prompts are built once, in the harness's order and with its few-shot seed; a sample's requests then go to the model like
those of any other task. Scores equal those of the harness's own model classes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml.error import YAMLError

from cycleqd_merge.config.tasks import LmEvalTaskConfig, Thinking
from cycleqd_merge.config.validation_errors import short_repr, suggestion
from cycleqd_merge.config.yaml_limits import YamlLimitError, require_bounded
from cycleqd_merge.errors import DataError, TaskError, UserError, first_line
from cycleqd_merge.tasks.matching import find_all
from cycleqd_merge.tasks.protocol import LanguageModel, Message, Outcome, Sample, Sampling, Targets, TaskSplit
from cycleqd_merge.tasks.splits import halves, samples_of
from cycleqd_merge.tasks.thinking import answer_of, opens_thought

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

log = logging.getLogger(__name__)

FEWSHOT_SEED = 1234
"""lm-evaluation-harness's default seed for drawing few-shot examples."""
ANSWER_TOKENS = 256
"""lm-evaluation-harness's default for tasks that do not set a limit."""


@dataclass(frozen=True, slots=True)
class HarnessPrompt:
    """The prompt of one request, and what follows it: `continuation`, which is scored, or up to `answer` tokens.

    row: its task and row, for messages.
    """

    row: str
    text: str
    continuation: str | None
    answer: int


class LmEvalTask:
    """A `Task` built from its definition. A group of the harness is one set of samples.

    Raises:
        TaskError: lm-evaluation-harness is not installed, has no such task, or cannot load it or its data; the task
            runs code or requires more than text; the metric is not a mean of scores per sample; there are too few
            examples; or a prompt cannot be built, or an answer graded. Messages name the task and the row.
        DataError: there is only one document.
    """

    semantics = 0

    def __init__(self, definition: LmEvalTaskConfig) -> None:
        self._definition = definition
        self._tasks = _load(definition)
        if definition.thinking == "strip" and self.scores_continuations:
            raise TaskError(
                f"thinking: `strip` has no effect on {definition.task}, which generates no answers; use `off`"
            )
        self._metrics = {name: _metric(name, task, definition.metric) for name, task in self._tasks.items()}
        places = [(name, place, doc) for name in self._tasks for place, doc in self._documents(name)]
        if len(places) < 2:
            raise DataError(f"{definition.task}: 1 document cannot be divided into a search and a held-out split")
        samples = samples_of([{"task": name, "document": doc} for name, _, doc in places])
        self._places = {sample.id: (name, place) for sample, (name, place, _) in zip(samples, places, strict=True)}
        self._samples = halves(samples, definition.seed)
        self._requests: dict[tuple[str, int], list[Instance]] = {}
        for name in self._tasks:
            self._check(name)

    @property
    def scores_continuations(self) -> bool:
        """Whether all requests score a continuation, such as a choice, so that a model generates nothing."""
        return all(task.OUTPUT_TYPE != "generate_until" for task in self._tasks.values())

    def _documents(self, name: str) -> Iterator[tuple[int, Any]]:
        return iter(self._tasks[name].doc_iterator(limit=self._definition.limit))

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        self._requests = self._requests or dict(self._built(model.render))
        name, row = place = self._places[sample.id]
        requests = [replace(request, resps=[], filtered_resps={}) for request in self._requests[place]]
        truncated = await asyncio.gather(*(_answer(request, model, self._definition.thinking) for request in requests))
        with _naming(name, row, RuntimeError):  # another model's answers may well be graded
            return Outcome(self._grade(name, requests), _output(requests), any(truncated))

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """The right choice or, for tasks that generate, the model's answers."""
        place = self._places[sample.id]
        task, requests = self._tasks[place[0]], self._requests[place]
        if task.OUTPUT_TYPE == "generate_until":
            return Targets(outcome.score)
        right = _right_places(task, requests[0].doc) if task.OUTPUT_TYPE == "multiple_choice" else [0]
        pairs = tuple((str(requests[number].args[0]), str(requests[number].args[1])) for number in right)
        return Targets(continuations=pairs) if pairs else None

    def prompts(self, render: Callable[..., str]) -> Iterator[HarnessPrompt]:
        """The prompts of all documents. render: as `LanguageModel.render`, called before a chat's prompt is yielded.

        Raises:
            TaskError: a prompt cannot be rendered; the message names the task and the row.
        """
        for (name, place), requests in self._requests.items() or self._built(render):
            for request in requests:
                yield HarnessPrompt(f"{name} {place}", request.args[0], *_following(request))

    def _built(self, render: Callable[..., str]) -> Iterator[tuple[tuple[str, int], list[Instance]]]:
        """The requests of all documents. render: as `LanguageModel.render`."""
        return (each for name in self._tasks for each in self._build(name, self._renderer(render)))

    def _grade(self, name: str, requests: list[Instance]) -> float:
        """The score of a document whose requests have been answered.

        Raises:
            TaskError: the metric is missing or no number from 0 to 1.
        """
        task, (metric, filtered) = self._tasks[name], self._metrics[name]
        for ensemble in task._filters:
            ensemble.apply(requests)
        found = task.process_results(requests[0].doc, [request.filtered_resps[filtered] for request in requests])
        if metric not in found:
            given = ", ".join(found) or "no metric"
            raise TaskError(f"its `process_results` gives {given}, not {metric}; set `metric` to one of them")
        score = found[metric]
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = nan
        if not 0 <= number <= 1:
            raise TaskError(f"its {metric} is {short_repr(score)}, not a number from 0 to 1; use a different metric")
        return number

    def _check(self, name: str) -> None:
        """Build every prompt and check what grades the answers, before any model is loaded."""
        task, own, count = self._tasks[name], list[int](), 0
        self._require_examples(name)
        drawn: list[Any] = []
        with _recorded(getattr(task, "sampler", None), drawn):
            for count, (place, requests) in enumerate(self._build(name, _joined), 1):
                (_, row), doc = place, requests[0].doc
                if not self._definition.chat:  # a chat's are built again with the model's template
                    self._requests[place] = requests
                if doc in drawn:
                    own.append(row)
                drawn.clear()
                with _naming(name, row):
                    _require_answer(task, doc)
                    if count == 1:
                        for request in requests:
                            _following(request)
                        self._grade(name, [_answered(request) for request in requests])
        if own:
            log.warning(
                "task: %s: %d of %d prompts show their own question and answer among the examples, such as row %d; "
                "set `fewshot_split` to a different split",
                *(name, len(own), count, own[0]),
            )

    def _require_examples(self, name: str) -> None:
        """Check that the examples before a question can be drawn.

        Raises:
            TaskError: there are fewer rows than examples.
        """
        task = self._tasks[name]
        wanted = task.config.num_fewshot or 0
        if not wanted:
            return
        sampler = getattr(task, "sampler", None)
        with _naming(name):
            rows = len(list(task.fewshot_docs()) if sampler is None else sampler.fewshot_indices or sampler.df)
        split = getattr(task, "fewshot_cfg", None)
        split = None if split is None else split.split
        # an example is drawn in addition where the question itself may be among them
        spare = int(split is not None and split == task.config.test_split)
        if wanted + spare > rows:
            where = "to draw them from" if split is None else f"in its split {split!r}"
            extra = ", the question itself not counted" if spare else ""
            raise TaskError(
                f"num_fewshot: {name} requires {wanted} examples and has {rows - spare} rows {where}{extra}; "
                f"set `num_fewshot` to {max(rows - spare, 0)} or less"
            )

    def _build(self, name: str, renderer: Callable[..., str]) -> Iterator[tuple[tuple[str, int], list[Instance]]]:
        """The requests of each document, by its task and place; few-shot examples are drawn in the documents' order."""
        task, render = self._tasks[name], renderer if self._definition.chat else None
        task.set_fewshot_seed(FEWSHOT_SEED)
        for place, doc in self._documents(name):
            with _naming(name, place):
                requests = self._requests_of(name, place, doc, render)
            if not requests:
                raise TaskError(f"task: {name}: row {place}: no choices to score")
            yield (name, place), sorted(requests, key=lambda request: int(request.idx))

    def _requests_of(self, name: str, place: int, doc: Any, render: Callable[..., str] | None) -> list[Instance]:
        task, chat = self._tasks[name], self._definition.chat
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
        return requests if isinstance(requests, list) else [requests]

    def _renderer(self, of_model: Callable[..., str]) -> Callable[..., str]:
        variables = self._definition.template_variables
        options = {} if variables is None else {"variables": variables}

        def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
            # looks at the last turn instead of the flag
            return of_model(messages, self._definition.chat_template, **options)

        return render


def _load(definition: LmEvalTaskConfig) -> dict[str, Any]:
    """lm-evaluation-harness's task objects by name, with the definition's number of few-shot examples."""
    path, include = Path(definition.task), definition.include
    for file in ([path] if path.is_file() else []) + (sorted(Path(include).rglob("*.yaml")) if include else []):
        _require_bounded(file)
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
        raise TaskError(f"task: {name} cannot be loaded: {_load_problem(error)}") from error
    for each, task in loaded.items():
        _require_supported(each, task)
        _bound_filters(task)
        if definition.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", definition.num_fewshot)
    return dict(loaded)


def _bound_filters(task: Any) -> None:
    """Let the regular expressions of a task's filters run within limits."""
    for ensemble in getattr(task, "_filters", ()):
        ensemble.filters = [functools.partial(_bounded_filter, make) for make in ensemble.filters]


def _bounded_filter(make: Callable[[], Any]) -> Any:
    made = make()
    if isinstance(getattr(made, "regex", None), re.Pattern):
        made.regex = _BoundedPattern(made.regex)
    return made


class _BoundedPattern:
    """A compiled regular expression whose `findall`, the method that filters use, runs within limits."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def findall(self, text: str) -> list[Any]:
        return find_all(self._pattern.pattern, self._pattern.flags, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pattern, name)


def _require_bounded(path: Path) -> None:
    """Check a task's file against the limits of YAML.

    Raises:
        TaskError: it exceeds one.
    """
    try:
        require_bounded(path.read_text(encoding="utf-8", errors="replace"))
    except YamlLimitError as error:
        place = str(path) if error.line is None else f"{path}:{error.line}"
        raise TaskError(f"task: {place}: {error}") from None
    except (YAMLError, OSError):  # reported when the task is loaded
        pass


def _load_problem(error: Exception) -> str:
    """What is wrong, and what to do if the data is a Python script."""
    text = first_line(error)
    if "ataset scripts are no longer supported" in text or "trust_remote_code" in text:
        return (
            "its dataset is a Python script, which is not run, also with `trust_remote_code`; set `dataset_path` in "
            "`overrides` to the same data as Parquet or JSON files, which the Hub often has in the branch "
            "`refs/convert/parquet` (`dataset_kwargs: {revision: refs/convert/parquet}`)"
        )
    if isinstance(error, KeyError):
        return f"its data or configuration has no {text}"
    return text


@contextmanager
def _naming(name: str, row: int | None = None, kind: type[Exception] = TaskError) -> Iterator[None]:
    """Turn any error of a task's own code or data into one of a kind that names the task and the row."""
    where = f"task: {name}" if row is None else f"task: {name}: row {row}"
    try:
        yield
    except TaskError as error:
        raise kind(f"{where}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # tasks are code of many authors: anything may be raised
        raise kind(f"{where}: {type(error).__name__}: {first_line(error)}; correct the task or the row") from error


@contextmanager
def _recorded(sampler: Any, drawn: list[Any]) -> Iterator[None]:
    """Collect the examples that a sampler draws."""
    if sampler is None:
        yield
        return
    sample = sampler.sample

    def recording(*args: Any, **options: Any) -> Any:
        found = sample(*args, **options)
        drawn.extend(found)
        return found

    sampler.sample = recording
    try:
        yield
    finally:
        del sampler.sample


def _joined(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """Chat turns as text while there is no model to render them."""
    return "\n".join(str(message["content"]) for message in messages)


def _following(request: Instance) -> tuple[str | None, int]:
    """What follows a request's prompt: a continuation to score, or the largest number of tokens to generate.

    Raises:
        TaskError: its generation options are not supported.
    """
    _, following = request.args
    return (following, 0) if isinstance(following, str) else (None, _sampling(following, 0).max_new_tokens)


def _answered(request: Instance) -> Instance:
    """The request with the answer of a model that knows nothing."""
    likelihoods = request.request_type == "loglikelihood"
    made_up: list[Any] = [(-1.0, False)] if likelihoods else ["I do not know."] * (request.repeats or 1)
    return replace(request, resps=made_up, filtered_resps={})


def _require_answer(task: Any, doc: Any) -> None:
    """Check that a row has the right answer, where lm-evaluation-harness's own grading compares with it.

    Raises:
        TaskError: it has none, or one that is not among the choices, which scores 0 whatever a model answers.
    """
    if task.config.process_results is not None:
        return
    if task.OUTPUT_TYPE != "multiple_choice":
        if task.doc_to_target(doc) is None:
            raise TaskError("`doc_to_target` gives no right answer; correct or remove the row")
        return
    choices = task.doc_to_choice(doc)
    right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    for each in right if isinstance(right, list | tuple) else [right]:
        known = each in (choices if isinstance(right, str) else range(len(choices)))
        if not known:
            shown = ", ".join(map(repr, choices))
            raise TaskError(
                f"the right answer {each!r} is neither one of the choices {shown} nor the number of one; correct or "
                "remove the row"
            )


def _right_places(task: Any, doc: Any) -> list[int]:
    """The numbers of a row's right choices, or of its right prompts; empty if the task does not state them."""
    try:
        right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        choices = list(task.doc_to_choice(doc))
    except Exception:  # only tasks with a grading of their own get here without a right choice: see `_require_answer`
        return []
    stated = right if isinstance(right, list | tuple) else [right]
    places = [choices.index(each) if isinstance(each, str) and each in choices else each for each in stated]
    return [place for place in places if isinstance(place, int) and 0 <= place < len(choices)]


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
    for key, value in task.config.to_dict(keep_callable=True).items():
        if isinstance(value, str) and value.lstrip().startswith("!function"):
            raise TaskError(f"{key}: {name} states the text {value!r}, not a function; write it in YAML without quotes")
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


async def _answer(request: Instance, model: LanguageModel, thinking: Thinking) -> bool:
    """Let the model answer a request; returns whether an answer was cut off at the token limit."""
    if request.request_type == "loglikelihood":
        found = await model.likelihood(*request.args)
        if not found.logprobs:
            name, row, _ = request.metadata
            raise TaskError(f"task: {name}: row {row}: choice {request.args[1]!r} has no tokens and cannot be scored")
        request.resps.append((sum(found.logprobs), found.greedy))
        return False
    prompt, options = request.args
    samplings = [_sampling(options, number) for number in range(request.repeats or 1)]
    asked = [replace(sampling, stop=()) if thinking == "strip" else sampling for sampling in samplings]
    answers = await asyncio.gather(*(model.complete(prompt, sampling) for sampling in asked))
    if thinking != "keep":
        answers = [answer_of(answer, opens_thought(prompt), samplings[0].stop) for answer in answers]
    request.resps.extend(answer.text for answer in answers)
    return any(answer.truncated for answer in answers)


def _sampling(options: Mapping[str, Any], number: int) -> Sampling:
    """The harness's generation options as a `Sampling`: greedy unless `do_sample` is set.

    Raises:
        TaskError: they are not supported.
    """
    stop = options.get("until") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not all(isinstance(text, str) for text in stop):
        raise TaskError(f"`until` in its `generation_kwargs` is {short_repr(stop)}, not a list of texts")
    tokens = next((options[key] for key in _LIMIT_KEYS if options.get(key) is not None), ANSWER_TOKENS)
    temperature = float(options.get("temperature") or 0.0)
    if options.get("do_sample") is False:
        temperature = 0.0
    elif options.get("do_sample") and not temperature:
        temperature = 1.0
    unknown = [key for key in ("top_p", "top_k", "min_p") if temperature and options.get(key) not in (None, 0, 1, 1.0)]
    if unknown:
        raise TaskError(f"sampling with {', '.join(unknown)} is not supported; override its `generation_kwargs`")
    return Sampling(int(tokens), temperature, tuple(text for text in stop if text), seed=number)


_LIMIT_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def _output(requests: Sequence[Instance]) -> str:
    """The model's text, or the continuation that it finds most likely."""
    if requests[0].request_type == "loglikelihood":
        return str(max(requests, key=lambda request: request.resps[0][0]).args[1])
    return str(requests[0].resps[0])
