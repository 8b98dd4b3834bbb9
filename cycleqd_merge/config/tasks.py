"""What a task definition may say. One file in `tasks/` holds one of these; a recipe may also state one inline."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cycleqd_merge.config.rows import DataConfig
from cycleqd_merge.config.scorers import ScorerConfig
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import PythonTargetConfig, StrictConfig


class MessageConfig(StrictConfig):
    """One turn of a chat prompt; `content` is a Jinja template over the row's columns."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptedTaskConfig(StrictConfig):
    """What every task says that asks a model for text: the prompt, and how the answer is decoded."""

    prompt: str | None = None
    """A Jinja template over the row's columns: a plain prompt, or with `chat: true` the user's turn."""
    messages: list[MessageConfig] | None = None
    """A chat prompt turn by turn, instead of `prompt`."""
    chat: bool = False
    """Put `prompt` into the model's chat template as one user turn."""
    system: str | None = None
    """A system turn before the others; needs a chat prompt."""
    chat_template: str | None = None
    """A Jinja chat template to use instead of the model's own."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer in tokens."""
    stop: list[str] = Field(default_factory=list)
    """Strings that end an answer; they are cut off."""
    temperature: float = Field(0.0, ge=0)
    """0 decodes greedily."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("state either `prompt` or `messages`")
        if not self.is_chat and (self.system is not None or self.chat_template is not None):
            key = "system" if self.system is not None else "chat_template"
            raise KeyProblem("needs `messages`, or `prompt` with `chat: true`", key)
        return self

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.chat or self.messages is not None


class GenerateTaskConfig(PromptedTaskConfig):
    """Rows with a prompt and a reference answer, scored one by one."""

    kind: Literal["generate"]
    description: str = ""
    """One line for reports."""
    data: DataConfig
    """Rows and how they divide into search and held-out."""
    answer: str = "{{ answer }}"
    """A Jinja template over the row's columns that gives the reference answer."""
    scorer: ScorerConfig
    """How an output is scored."""


class CodeTaskConfig(PromptedTaskConfig):
    """Functions to write, run in a sandbox on the inputs of MBPP+, HumanEval+ or data in their format."""

    kind: Literal["code"]
    description: str = ""
    """One line for reports."""
    data: DataConfig
    """Rows in EvalPlus' format and how they divide into search and held-out."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest answer in tokens."""
    metric: Literal["base", "plus"] = "plus"
    """`base`: an answer must be right on the benchmark's own inputs; `plus`: on EvalPlus' further ones too."""
    k: int = Field(1, ge=1)
    """The score is pass@k: the chance that one of `k` answers is right."""
    answers: int = Field(1, ge=1)
    """Answers asked for per problem, from which pass@k is estimated; more than one needs a `temperature`."""
    seconds: float = Field(5.0, gt=0)
    """Time that a program may take, besides four times what the reference solution takes."""
    memory: int = Field(4096, ge=64)
    """Memory that a program may take, in MiB."""

    @model_validator(mode="after")
    def _enough_answers(self) -> CodeTaskConfig:
        if self.answers < self.k:
            raise KeyProblem(f"pass@{self.k} needs {self.k} answers or more", "answers")
        if self.answers > 1 and self.temperature == 0:
            raise KeyProblem("more than one answer needs a `temperature` above 0", "answers")
        return self


class ConversationTaskConfig(PromptedTaskConfig):
    """What a task of several turns says: its prompt is a chat, and the model's turns may be longer."""

    max_new_tokens: int = Field(512, ge=1)
    """Longest turn in tokens."""

    @model_validator(mode="after")
    def _talks(self) -> Self:
        if not self.is_chat:
            raise KeyProblem("a conversation needs `messages`, or `prompt` with `chat: true`", "prompt")
        return self


class OsInteractionTaskConfig(ConversationTaskConfig):
    """AgentBench's OS problems: several turns with a shell in a sandbox."""

    kind: Literal["os_interaction"]
    description: str = ""
    """One line for reports."""
    data: DataConfig
    """Problems in AgentBench's format and how they divide into search and held-out."""
    scripts: str | None = None
    """Folder that the scripts' file names start at; relative paths start at the file that names it."""
    rounds: int = Field(5, ge=1)
    """Turns of the model; without an answer by then, the state of the system alone is graded."""
    output_longest: int = Field(800, ge=1)
    """Characters of a command's output beyond which it is cut."""
    output_kept: int = Field(780, ge=1)
    """Characters that are left of an output that is cut."""
    repeats: int = Field(1, ge=1)
    """Times that each problem is played; the score is the mean."""
    root: str = "default"
    """The root file system of the sandbox, as `sandbox build` named it."""
    seconds: float = Field(5.0, gt=0)
    """Time that one command may take."""
    memory: int = Field(512, ge=64)
    """Memory that a sandbox may take, in MiB."""
    boxes: int = Field(32, ge=1)
    """Sandboxes at once."""


class DbbenchTaskConfig(ConversationTaskConfig):
    """AgentBench's database samples: the model works on a table with SQL, turn by turn, and answers or changes it."""

    kind: Literal["dbbench"]
    description: str = ""
    """One line for reports."""
    data: DataConfig
    """Rows in AgentBench's format and how they divide into search and held-out."""
    database: Literal["mariadb", "sqlite"] = "mariadb"
    """What runs the SQL: MariaDB as AgentBench's MySQL, or SQLite after a translation, which is an approximation."""
    rounds: int = Field(5, ge=1)
    """Statements that the model may run before it has to answer."""
    seconds: float = Field(10.0, gt=0)
    """Time that one statement may take."""


class LmEvalTaskConfig(StrictConfig):
    """A task or group of lm-evaluation-harness, of generation or log-likelihood, with its own prompts and metrics."""

    kind: Literal["lm_eval"]
    description: str = ""
    """One line for reports."""
    task: str
    """Its name, or a YAML file of lm-evaluation-harness; relative paths start at the file that names them."""
    include: str | None = None
    """A folder of such YAML files to take it from, instead of those that come with lm-evaluation-harness."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of its configuration to set anew, such as `dataset_path`; of a single task, by its name."""
    metric: str | None = None
    """What to score by, such as `acc_norm` or, with a filter, `exact_match,strict-match`; by default its first."""
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question, unless its configuration fixes them at 0; by default as many as it says."""
    chat: bool = False
    """Put prompts into the model's chat template."""
    system: str | None = None
    """A system turn, or without `chat` a text before the others."""
    chat_template: str | None = None
    """A Jinja chat template to use instead of the model's own; needs `chat: true`."""
    fewshot_as_multiturn: bool = False
    """With `chat`: examples are turns of their own, not one turn with the question."""
    limit: int | None = Field(None, ge=2)
    """Use only so many documents of it (of each task of a group)."""
    seed: int = 0
    """Seed of the division into search and held-out."""

    @model_validator(mode="after")
    def _chat_keys(self) -> LmEvalTaskConfig:
        for key, stated in (("chat_template", self.chat_template), ("fewshot_as_multiturn", self.fewshot_as_multiturn)):
            if stated and not self.chat:
                raise KeyProblem("needs `chat: true`", key)
        return self

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.chat


class PythonTaskConfig(PythonTargetConfig):
    """The user's own task: a class with the methods of `cycleqd_merge.tasks.protocol.Task`."""

    kind: Literal["python"]
    description: str = ""
    """One line for reports."""


TaskDefinitionConfig = Annotated[
    GenerateTaskConfig
    | CodeTaskConfig
    | OsInteractionTaskConfig
    | DbbenchTaskConfig
    | LmEvalTaskConfig
    | PythonTaskConfig,
    Field(discriminator="kind"),
]
