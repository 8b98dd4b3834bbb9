"""`models.vocabulary: union`: one vocabulary for a base and its experts, from their tokenizers. Pure functions.

Base tokens keep their ids. A token that the base lacks keeps its expert's id if no other token has it, else it gets
the lowest free id; the same text is one token, whatever its ids in the models. In tensors with a vocabulary axis,

- the base's row of a token that it lacks is the float32 mean of the rows of the experts that have the token;
- an expert's row of a token that it lacks is the base's, so it contributes nothing there;
- rows that belong to no token are the base's; where the base has none, they are the mean of all its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from cycleqd_merge.errors import ModelError

_SHOWN = 8  # tokens of an expert that a notice lists by name
Flags = Mapping[str, bool]
"""How an added token is matched in text: `special`, `normalized`, `lstrip`, `rstrip`, `single_word`."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model.

    ids: of all tokens. added: the flags of its added tokens. rows: of its embedding; a token with a higher id has none.
    """

    name: str
    ids: Mapping[str, int]
    added: Mapping[str, Flags]
    rows: int

    @property
    def own(self) -> dict[str, int]:
        """The ids of the tokens that are not added: those of the tokenizer's model."""
        return {token: number for token, number in self.ids.items() if token not in self.added}

    def row(self, token: str) -> int | None:
        """The row of a token, or None if the model has none for it."""
        number = self.ids.get(token)
        return number if number is not None and number < self.rows else None


@dataclass(frozen=True)
class AddedToken:
    """A token that the union adds to the base's tokenizer. experts: the names of those that have it."""

    text: str
    id: int
    flags: Flags
    experts: tuple[str, ...]


@dataclass(frozen=True)
class Union:
    """The vocabulary of merged models.

    tokens: added to the base's, by id; a few may be words of the base's tokenizer that only an expert matches as a
    whole. rows: of every tensor with a vocabulary axis. base_rows: of the base's own. sources: by expert, for each id
    the row of the expert's own tensors that it is read from, or -1 for the base's row.
    """

    tokens: tuple[AddedToken, ...]
    rows: int
    base_rows: int
    sources: tuple[tuple[int, ...], ...]
    notices: tuple[str, ...] = field(default=())

    @property
    def extends(self) -> bool:
        """Whether the base itself changes: its tokenizer or its rows."""
        return bool(self.tokens) or self.rows != self.base_rows

    def changes(self, expert: int, rows: int) -> bool:
        """Whether an expert's tensors change. rows: of its own."""
        same = all(source in (-1, number) for number, source in enumerate(self.sources[expert]))
        return self.extends or rows != self.rows or not same

    @cached_property
    def new_rows(self) -> dict[int, tuple[int, ...]]:
        """By id, the experts whose rows the base's row is the mean of; without experts, it is the mean of all rows."""
        numbers = {*range(self.base_rows, self.rows), *(token.id for token in self.tokens if token.experts)}
        return {n: tuple(e for e, rows in enumerate(self.sources) if rows[n] >= 0) for n in sorted(numbers)}

    @cached_property
    def moves(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """By expert, the ids whose rows are its own, and where they are in its tensors: two int64 tensors of one size.

        Without new tokens of this expert alone: the base's rows are those already.
        """
        alone = {number for number, owners in self.new_rows.items() if len(owners) == 1}
        pairs = (
            [(to, source) for to, source in enumerate(rows) if source >= 0 and to not in alone] for rows in self.sources
        )
        return tuple((each[:, 0], each[:, 1]) for each in (torch.tensor(pair).reshape(-1, 2) for pair in pairs))

    def to_json(self) -> dict[str, Any]:
        """The union as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Union:
        """The inverse of `to_json`."""
        tokens = tuple(AddedToken(**{**token, "experts": tuple(token["experts"])}) for token in record["tokens"])
        sources = tuple(map(tuple, record["sources"]))
        return cls(tokens, record["rows"], record["base_rows"], sources, tuple(record["notices"]))

    @property
    def identity(self) -> str:
        """A text that is equal for unions that give the same tensors and tokenizer."""
        tokens = [[token.text, token.id, dict(token.flags)] for token in self.tokens]
        return json.dumps([tokens, self.rows, self.base_rows, self.sources], sort_keys=True)


def union_of(base: Vocabulary, experts: Sequence[Vocabulary]) -> Union:
    """The union of the base's and the experts' vocabularies, the same for the same order of experts.

    Raises:
        ModelError: an expert has a different tokenizer: it differs in more than added tokens. One line for each.
    """
    errors = [error for expert in experts for error in _differences(base, expert)]
    if errors:
        raise ModelError("\n".join(errors))
    ids, flags, notices = dict(base.ids), dict(base.added), list[str]()
    owners = dict[str, list[str]]()
    for expert in experts:
        differing = []
        for text in sorted(expert.added, key=lambda text: expert.ids[text]):
            if text not in ids and expert.row(text) is None:
                notices.append(f"expert {expert.name}: its token {text!r} has no row in its embedding: left out")
                continue
            if text not in ids:
                ids[text], owners[text] = _free(expert.ids[text], set(ids.values())), []
            if text in owners and expert.row(text) is not None:
                owners[text].append(expert.name)
            if flags.setdefault(text, expert.added[text]) != expert.added[text]:
                differing.append(text)
        notices.extend(_flags_notice(expert, differing))
    tokens = tuple(
        AddedToken(text, ids[text], flags[text], tuple(owners.get(text, ())))
        for text in sorted(flags.keys() - base.added.keys(), key=lambda text: ids[text])
    )
    rows = max(base.rows, max(ids.values(), default=-1) + 1)
    texts = {number: text for text, number in ids.items()}
    sources = tuple(tuple(_source(expert, texts.get(number)) for number in range(rows)) for expert in experts)
    return Union(tokens, rows, base.rows, sources, (*_notices(experts, tokens, base.rows, rows), *notices))


def is_joinable(base: Vocabulary, expert: Vocabulary) -> bool:
    """Whether `union_of` accepts an expert's tokenizer: it differs from the base's in added tokens only."""
    return not any(_differences(base, expert))


def _free(wanted: int, used: Set[int]) -> int:
    """The id that a token wants, or the lowest free one if another token has it."""
    return wanted if wanted not in used else next(n for n in range(len(used) + 1) if n not in used)


def _source(expert: Vocabulary, text: str | None) -> int:
    row = None if text is None else expert.row(text)
    return -1 if row is None else row


def _differences(base: Vocabulary, expert: Vocabulary) -> Iterator[str]:
    """An error if an expert's tokenizer differs in more than added tokens. An added token may replace one of the
    base's at the same id: fine-tunes rename reserved tokens."""
    texts = {number: text for text, number in expert.ids.items()}
    different = {text for text, number in expert.own.items() if base.ids.get(text) != number}
    for text, number in base.own.items():
        other = expert.ids.get(text)
        if other != number and not (other is None and texts.get(number) in expert.added):
            different.add(text)
    if different:
        first = min(different, key=lambda text: (base.ids.get(text, expert.ids.get(text, 0)), text))
        yield (
            f"expert {expert.name}: its tokenizer differs in {_tokens(len(different))} other than added tokens; first "
            f"{first!r}: id {expert.ids.get(first)}, in the base {base.ids.get(first)}; "
            "`models.vocabulary: union` joins added tokens only"
        )


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def _flags_notice(expert: Vocabulary, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        flags = ", ".join(f"{name} {str(value).lower()}" for name, value in expert.added[texts[0]].items())
        what = f"{len(texts)} added tokens have other properties than in an earlier model, which decides"
        yield f"expert {expert.name}: {what}; first {texts[0]!r}: {flags}"


def _notices(experts: Sequence[Vocabulary], tokens: Sequence[AddedToken], base_rows: int, rows: int) -> Iterator[str]:
    """Which tokens are added, from whom, and at which ids."""
    for expert in experts:
        new = [token for token in tokens if expert.name in token.experts]
        if new:
            named = [_named(token, expert) for token in new[:_SHOWN]]
            more = [f"and {len(new) - _SHOWN} more"] if len(new) > _SHOWN else []
            yield f"vocabulary: expert {expert.name} adds {', '.join([*named, *more])}"
    whole = [f"{token.text!r} (id {token.id})" for token in tokens if not token.experts]
    if whole:
        more = [f"and {len(whole) - _SHOWN} more"] if len(whole) > _SHOWN else []
        names = ", ".join([*whole[:_SHOWN], *more])
        yield f"vocabulary: added tokens of an expert that the base's tokenizer already has as words: {names}"
    if rows != base_rows:
        yield f"vocabulary: {rows} rows; the base has {base_rows}"


def _named(token: AddedToken, expert: Vocabulary) -> str:
    own = expert.ids[token.text]
    return f"{token.text!r} (id {token.id}" + (")" if own == token.id else f", {own} in the expert)")


def base_rows(base: torch.Tensor, experts: Sequence[torch.Tensor | None], axis: int, union: Union) -> torch.Tensor:
    """The base's tensor in the union's vocabulary, in its own dtype.

    experts: their tensors; None where an expert has none of its own, so that it has no rows to add.
    """
    own = base.movedim(axis, 0)
    tensors = [None if tensor is None else tensor.movedim(axis, 0) for tensor in experts]
    rows = own.new_empty((union.rows, *own.shape[1:]))
    rows[: union.base_rows] = own
    for number, owners in union.new_rows.items():
        found = [_row(tensors[owner], union.sources[owner][number]) for owner in owners]
        known = [row for row in found if row is not None]
        mean = sum(known[1:], start=known[0]) / len(known) if known else own.mean(0, dtype=torch.float32)
        rows[number] = mean.to(base.dtype)
    return rows.movedim(0, axis).contiguous()


def expert_rows(expert: torch.Tensor, number: int, base: torch.Tensor, axis: int, union: Union) -> torch.Tensor:
    """An expert's tensor in the union's vocabulary. The dtype holds the values of expert and base exactly.

    number: the expert's. base: the result of `base_rows`. A new token of this expert alone is the base's row already.
    """
    own = expert.movedim(axis, 0)
    rows = base.movedim(axis, 0).to(torch.promote_types(expert.dtype, base.dtype), copy=True)
    to, source = union.moves[number]
    known = source < own.shape[0]
    rows[to[known]] = own[source[known]].to(rows.dtype)
    return rows.movedim(0, axis).contiguous()


def _row(tensor: torch.Tensor | None, number: int) -> torch.Tensor | None:
    """A row in float32, or None if the tensor has no such row."""
    return tensor[number].float() if tensor is not None and 0 <= number < tensor.shape[0] else None
