"""Whether a chat template writes the turns of a task's prompts, and what it adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig
from cycleqd_merge.config.tasks import (
    SWITCHES,
    ConversationTaskConfig,
    GenerateTaskConfig,
    LmEvalTaskConfig,
    PromptedTaskConfig,
)
from cycleqd_merge.errors import TaskError
from cycleqd_merge.merging.chat_templates import TemplateLimit, render, template_source, template_variables
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.tasks.lm_eval import LmEvalTask
from cycleqd_merge.tasks.protocol import Message
from cycleqd_merge.tasks.suite import SuiteTask
from cycleqd_merge.tasks.thinking import TAGS, opens_thought

_ADVICE = {
    "system": "put its text into the user's turn, or give the task a `chat_template` that writes system turns",
    "assistant": "remove that turn, or give the task a `chat_template` that writes it",
    "user": "give the task a `chat_template` that writes it",
}


@dataclass(frozen=True)
class _Template:
    """The chat template that a task uses with a tokenizer, and the task's settings of it."""

    tokenizer: PreTrainedTokenizerBase
    definition: PromptedTaskConfig | LmEvalTaskConfig

    @classmethod
    def of(cls, task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> _Template:
        assert isinstance(task.definition, PromptedTaskConfig | LmEvalTaskConfig)
        return cls(tokenizer, task.definition)

    @property
    def source(self) -> str:
        return template_source(self.tokenizer, self.definition.chat_template)

    def dated(self, roles: Sequence[str]) -> bool:
        """Whether prompts with these turns contain today's date."""
        return "strftime_now" in self.source and str(date.today().year) in self.render(recognised(roles))

    def render(self, turns: Sequence[Message]) -> str:
        return render(self.tokenizer, turns, self.definition.chat_template, self.definition.template_variables)


def check_accepted(task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """An error if the template rejects turns with the roles of a chat task's prompts, or of its later turns."""
    template = _Template.of(task, tokenizer)
    for where, roles in _shapes(task, template):
        try:
            template.render(recognised(roles))
        except TemplateLimit as error:
            return f"{where}{error}; give the task another `chat_template`"
        except TaskError as error:
            return f"{where}{error}; {_remedy(roles, template)}"
    return None


def check_written(task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> Problems:
    """Whether an accepted template drops turns (errors), moves or joins them, or writes the date (notices)."""
    found, template = Problems(), _Template.of(task, tokenizer)
    for where, roles in _shapes(task, template):
        shape = _check_shape(where, roles, template)
        found.errors.extend(shape.errors)
        if roles == roles_of(template.definition):  # what is noticed in later turns is the same
            found.notices.extend(shape.notices)
        if found.errors:
            return found
    if template.dated(roles_of(template.definition)):
        found.notices.append(
            f"task {task.name}: the chat template writes today's date into prompts, so scores depend on the day; "
            "a `chat_template` with a fixed date avoids this"
        )
    return found


def _shapes(task: SuiteTask, template: _Template) -> Iterator[tuple[str, list[str]]]:
    """The roles of a task's prompts, each with the start of a message about them."""
    roles = roles_of(template.definition)
    yield f"task {task.name}: ", roles
    if isinstance(template.definition, ConversationTaskConfig):
        yield f"task {task.name}: in later turns, ", later_roles(roles)


def roles_of(definition: PromptedTaskConfig | LmEvalTaskConfig) -> list[str]:
    """The roles of the turns of a chat task's prompts."""
    system = ["system"] if definition.system is not None else []
    if isinstance(definition, LmEvalTaskConfig):
        return [*system, *(["user", "assistant"] if definition.fewshot_as_multiturn else []), "user"]
    return [*system, *([turn.role for turn in definition.messages] if definition.messages else ["user"])]


def later_roles(roles: Sequence[str]) -> list[str]:
    """The roles after an answer, which completes a last turn of the assistant, and the reply to it."""
    return [*(roles[:-1] if roles[-1] == "assistant" else roles), "assistant", "user"]


def recognised(roles: Sequence[str]) -> list[Message]:
    """Turns whose texts occur nowhere else."""
    return [{"role": role, "content": _text(place)} for place, role in enumerate(roles)]


def _text(place: int) -> str:
    return f"Recognised{place}text."


def _check_shape(where: str, roles: Sequence[str], template: _Template) -> Problems:
    found, text = Problems(), template.render(recognised(roles))
    places = [text.find(_text(place)) for place in range(len(roles))]
    if min(places) < 0:
        number = places.index(min(places))
        role = roles[number]
        turn = f"the {role} turn" if roles.count(role) == 1 else f"turn {number + 1} ({role})"
        found.errors.append(f"{where}the chat template drops {turn}; {_ADVICE[role]}")
    elif places != sorted(places):
        order = ", ".join(role for _, role in sorted(zip(places, roles, strict=True)))
        found.notices.append(f"{where}the chat template changes the order of the turns: it writes {order}")
    elif list(roles[:2]) == ["system", "user"] and _folds(roles, text, template):
        found.notices.append(
            f"{where}the chat template has no system turn: it writes the system text at the start of the user's turn"
        )
    return found


def _folds(roles: Sequence[str], text: str, template: _Template) -> bool:
    """Whether a user's turn that contains the system text gives the same prompt. text: that of both turns."""
    _, user, *others = recognised(roles)
    system = text[text.index(_text(0)) : text.index(_text(1))]
    try:
        return template.render([{**user, "content": system + _text(1)}, *others]) == text
    except TaskError:
        return False


def _remedy(roles: Sequence[str], template: _Template) -> str:
    """What to do about turns that a template rejects: about the one without which it accepts them, if there is one."""
    for place in dict.fromkeys([0, len(roles) - 1]):
        others = [role for number, role in enumerate(roles) if number != place]
        if roles[place] != "user" and others and _accepts(others, template):
            return _ADVICE[roles[place]]
    return f"give the task a `chat_template` that accepts the turns {', '.join(roles)}"


def _accepts(roles: Sequence[str], template: _Template) -> bool:
    try:
        template.render(recognised(roles))
    except TaskError:
        return False
    return True


def check_thinking(task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> Problems:
    """Report a missing switch, thoughts that cannot be recognised, and thoughts that are part of answers."""
    found, definition = Problems(), task.definition
    assert isinstance(definition, PromptedTaskConfig | LmEvalTaskConfig)
    where, template = f"task {task.name}: thinking: ", _Template(tokenizer, definition)
    choices = _scores_choices(task)
    variables = template_variables(tokenizer, definition.chat_template) if definition.is_chat else frozenset()
    if definition.thinking == "off" and not variables & SWITCHES.keys():
        found.errors.append(
            f"{where}`off`: the chat template has no switch (a variable {' or '.join(SWITCHES)}); use "
            f"{'' if choices else '`strip`, or '}{_CLOSED}"
        )
    if definition.thinking == "strip":
        hidden = _hidden_tag(template.source if definition.is_chat else "", tokenizer)
        if hidden is not None:
            found.errors.append(
                f"{where}`strip`: answers do not contain {hidden}, a special token of the model, so its thoughts "
                "cannot be recognised; use `keep`, or `off` if the chat template has a switch"
            )
    kept = definition.thinking == "keep" and definition.is_chat
    if kept and opens_thought(template.render(recognised(roles_of(definition)))):
        scored = "choices are scored as the beginning of its thought; `off` or " + _CLOSED
        if not choices:
            scored = "its thoughts are scored as part of its answers; `strip` or `off`"
        found.notices.append(
            f"{where}the chat template makes the model think before it answers, and {scored} prevents this"
        )
    return found


_CLOSED = "a `chat_template` that begins answers with a closed thought"


def _scores_choices(task: SuiteTask) -> bool:
    """Whether the model generates no answers."""
    if isinstance(task.task, LmEvalTask):
        return task.task.scores_continuations
    definition = task.definition
    return isinstance(definition, GenerateTaskConfig) and isinstance(definition.scorer, MultipleChoiceScorerConfig)


def _hidden_tag(source: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token in the tag that closes the model's thoughts; None if answers contain the tag."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    known = {str(token) for token in added}
    used = [end for start, end in TAGS if start in source or end in source or end in known]
    hidden = [next((token for token in sorted(special) if token in end), None) for end in used]
    return hidden[0] if hidden and None not in hidden else None


def check_row(messages: Sequence[Message], text: str) -> tuple[str, str] | None:
    """The role of a turn whose text is not in the prompt, and whether the template "drops" or "changes" it."""
    for message in messages:
        lines = [line.strip() for line in str(message["content"]).strip().splitlines()]
        if str(message["content"]).strip() not in text:
            kept = any(line in text for line in lines if line)
            return str(message["role"]), "changes" if kept else "drops"
    return None
