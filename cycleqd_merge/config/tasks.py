"""The keys of a task definition: a file in `tasks/`, or the definition written in a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cycleqd_merge.config.rows import DataConfig
from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig, ScorerConfig
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import (
    LARGE,
    MAX_COUNT,
    MAX_REPEATS,
    MAX_ROWS,
    MAX_SEED,
    PythonTargetConfig,
    StrictConfig,
)

SWITCHES = {"enable_thinking": False, "thinking": False}
"""Variables of chat templates that turn thinking off: the first of Qwen3, GLM-4.5, SmolLM3, Nemotron and Gemma 4, the
second of Granite and DeepSeek-V3.1."""

Thinking = Literal["keep", "strip", "off"]
Learned = Literal["answers", "gold"]


class MessageConfig(StrictConfig):
    """One turn of a chat prompt; `content` is a Jinja template over the row's columns."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptedTaskConfig(StrictConfig):
    """Keys of every task that asks a model for text: the prompt, and how answers are decoded."""

    prompt: str | None = None
    """A Jinja template over the row's columns: a plain prompt or, with `chat: true`, the user's turn."""
    messages: list[MessageConfig] | None = None
    """A chat prompt, turn by turn, instead of `prompt`."""
    chat: bool = False
    """Apply the model's chat template to `prompt`, as one user turn."""
    system: str | None = None
    """A system turn before the others; requires a chat prompt."""
    chat_template: str | None = None
    """A Jinja chat template to use instead of the model's own."""
    max_new_tokens: int = Field(64, ge=1, le=MAX_COUNT)
    """Maximum length of an answer in tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Strings that end an answer; they are removed from it. They may contain special tokens of the model."""
    temperature: float = Field(0.0, ge=0, le=LARGE)
    """Sampling temperature; 0 is greedy decoding."""
    thinking: Thinking = "keep"
    """A thinking model's thoughts: `keep` them in answers, `strip` them before answers are scored or become part of a
    conversation, or turn them `off` by the chat template's switch and strip those that remain."""
    fit: Learned = "answers"
    """What a fit learns from: the expert's own `answers`, or the rows' `gold` answers."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("set either `prompt` or `messages`")
        if not self.is_chat and (self.system is not None or self.chat_template is not None):
            key = "system" if self.system is not None else "chat_template"
            raise KeyProblem("requires `messages`, or `prompt` with `chat: true`", key)
        if not self.is_chat and self.thinking == "off":
            raise KeyProblem("`off` is a switch of chat templates: it requires a chat prompt; use `strip`", "thinking")
        return self

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.chat or self.messages is not None

    @property
    def template_variables(self) -> dict[str, bool] | None:
        """Variables that turn the chat template's thinking off; None if the task does not ask for it."""
        return dict(SWITCHES) if self.thinking == "off" else None


class GenerateTaskConfig(PromptedTaskConfig):
    """Rows with a prompt and a reference answer, scored one by one."""

    kind: Literal["generate"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""
    data: DataConfig
    """Rows, and how they are divided into a search and a held-out split."""
    answer: str = "{{ answer }}"
    """A Jinja template over the row's columns that gives the reference answer."""
    scorer: ScorerConfig
    """How an output is scored."""

    @model_validator(mode="after")
    def _thoughts_to_strip(self) -> Self:
        if self.thinking == "strip" and isinstance(self.scorer, MultipleChoiceScorerConfig):
            raise KeyProblem(
                "`strip` has no effect on `multiple_choice`, which generates no answers; use `off`", "thinking"
            )
        return self


class CodeTaskConfig(PromptedTaskConfig):
    """Python functions to write, tested in the sandbox on the inputs of MBPP+, HumanEval+ or data in their format."""

    kind: Literal["code"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""
    data: DataConfig
    """Rows in EvalPlus' format, and how they are divided into a search and a held-out split."""
    max_new_tokens: int = Field(512, ge=1, le=MAX_COUNT)
    """Maximum length of an answer in tokens."""
    metric: Literal["base", "plus"] = "plus"
    """`base`: an answer must be correct on the benchmark's own inputs; `plus`: on EvalPlus' additional inputs too."""
    k: int = Field(1, ge=1, le=MAX_REPEATS)
    """The score is pass@k: the probability that one of `k` answers is correct."""
    answers: int = Field(1, ge=1, le=MAX_REPEATS)
    """Answers per problem from which pass@k is estimated; more than one requires a `temperature`."""
    seconds: float = Field(5.0, gt=0, le=LARGE)
    """Time limit of a program, in addition to four times the reference solution's time."""
    memory: int = Field(4096, ge=64, le=MAX_COUNT)
    """Memory limit of a program, in MiB."""

    @model_validator(mode="after")
    def _enough_answers(self) -> CodeTaskConfig:
        if self.answers < self.k:
            raise KeyProblem(f"pass@{self.k} requires at least {self.k} answers", "answers")
        if self.answers > 1 and self.temperature == 0:
            raise KeyProblem("more than one answer requires a `temperature` above 0", "answers")
        return self


class ConversationTaskConfig(PromptedTaskConfig):
    """Keys of tasks with several turns: the prompt is a chat, and the model's turns may be longer."""

    max_new_tokens: int = Field(512, ge=1, le=MAX_COUNT)
    """Maximum length of a turn in tokens."""

    @model_validator(mode="after")
    def _require_chat(self) -> Self:
        if not self.is_chat:
            raise KeyProblem("a conversation requires `messages`, or `prompt` with `chat: true`", "prompt")
        return self


class OsInteractionTaskConfig(ConversationTaskConfig):
    """AgentBench's OS problems: several turns with a shell in the sandbox."""

    kind: Literal["os_interaction"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""
    data: DataConfig
    """Problems in AgentBench's format, and how they are divided into a search and a held-out split."""
    scripts: str | None = None
    """Folder of the scripts; a relative path starts at the task file's folder."""
    rounds: int = Field(5, ge=1, le=MAX_REPEATS)
    """Maximum number of the model's turns; if it has not answered by then, the system is graded as it is."""
    output_longest: int = Field(800, ge=1, le=MAX_COUNT)
    """Length of a command's output, in characters, above which it is truncated."""
    output_kept: int = Field(780, ge=1, le=MAX_COUNT)
    """Length to which such output is truncated, in characters."""
    repeats: int = Field(1, ge=1, le=MAX_REPEATS)
    """Number of attempts at each problem; the score is their mean."""
    root: str = "default"
    """The sandbox's root file system, by the name given to `sandbox build`."""
    seconds: float = Field(5.0, gt=0, le=LARGE)
    """Time limit of one command, in seconds."""
    memory: int = Field(512, ge=64, le=MAX_COUNT)
    """Memory limit of a box, in MiB."""
    boxes: int = Field(32, ge=1, le=MAX_REPEATS)
    """Number of boxes at once; each is the sandboxed system of one conversation."""


class DbbenchTaskConfig(ConversationTaskConfig):
    """AgentBench's database samples: the model uses SQL on a table, turn by turn, to answer a question or change it."""

    kind: Literal["dbbench"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""
    data: DataConfig
    """Rows in AgentBench's format, and how they are divided into a search and a held-out split."""
    database: Literal["mariadb", "sqlite"] = "mariadb"
    """MariaDB, which behaves like AgentBench's MySQL, or SQLite with translated SQL, which is an approximation."""
    rounds: int = Field(5, ge=1, le=MAX_REPEATS)
    """Number of statements that the model may run before it must answer."""
    seconds: float = Field(10.0, gt=0, le=LARGE)
    """Time limit of one statement, in seconds."""


class LmEvalTaskConfig(StrictConfig):
    """A generation or log-likelihood task (or group) of lm-evaluation-harness, with its own prompts and metrics."""

    kind: Literal["lm_eval"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""
    task: str
    """A task, group or tag by its name, or a YAML file by its path, which is relative to the task file's folder."""
    include: str | None = None
    """A folder of such YAML files to search instead of those of lm-evaluation-harness."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of its configuration to override, such as `dataset_path`; only for a single task given by its name."""
    metric: str | None = None
    """The metric, such as `acc_norm` or, with a filter, `exact_match,strict-match`; by default the task's first."""
    num_fewshot: int | None = Field(None, ge=0, le=MAX_REPEATS)
    """Number of examples before each question, unless the task's configuration sets it to 0; by default its own."""
    chat: bool = False
    """Apply the model's chat template to prompts."""
    system: str | None = None
    """A system turn or, without `chat: true`, text before the prompt."""
    chat_template: str | None = None
    """A Jinja chat template to use instead of the model's own; requires `chat: true`."""
    fewshot_as_multiturn: bool = False
    """With `chat: true`: each example is a turn of its own instead of part of the question's turn."""
    thinking: Thinking = "keep"
    """A thinking model's thoughts: `keep` them in answers, `strip` them before answers are scored, or turn them `off`
    by the chat template's switch and strip those that remain."""
    limit: int | None = Field(None, ge=2, le=MAX_ROWS)
    """Number of documents to use (of each task in a group); by default all."""
    seed: int = Field(0, ge=-MAX_SEED, le=MAX_SEED)
    """Random seed of the division into search and held-out splits."""

    @model_validator(mode="after")
    def _chat_keys(self) -> LmEvalTaskConfig:
        for key, stated in (("chat_template", self.chat_template), ("fewshot_as_multiturn", self.fewshot_as_multiturn)):
            if stated and not self.chat:
                raise KeyProblem("requires `chat: true`", key)
        if self.thinking == "off" and not self.chat:
            raise KeyProblem("`off` is a switch of chat templates: it requires `chat: true`; use `strip`", "thinking")
        return self

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.chat

    @property
    def template_variables(self) -> dict[str, bool] | None:
        """As `PromptedTaskConfig.template_variables`."""
        return dict(SWITCHES) if self.thinking == "off" else None


class PythonTaskConfig(PythonTargetConfig):
    """Your own task: a class with the methods of `cycleqd_merge.plugins.Task`."""

    kind: Literal["python"]
    description: str = ""
    """One line about the task, for readers; it has no effect on scores."""


TaskDefinitionConfig = Annotated[
    GenerateTaskConfig
    | CodeTaskConfig
    | OsInteractionTaskConfig
    | DbbenchTaskConfig
    | LmEvalTaskConfig
    | PythonTaskConfig,
    Field(discriminator="kind"),
]
