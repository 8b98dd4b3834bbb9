"""The loss of a fit: how far its predictions of an expert's own answers are from the expert's.

    distillation:  sum_t w_t KL(expert's distribution of token t || the merged model's)
    cross-entropy: sum_t -w_t log p(token t)

An expert's distribution is kept as its most likely tokens and the rest's total, which bounds the divergence from below.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from cycleqd_merge.fitting.examples import Batch


@dataclass(frozen=True)
class Predictions:
    """The most likely tokens of several distributions.

    tokens: ids, shape (distributions, k), int64. logprobs: natural logarithms, shape (distributions, k), float32.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor

    def of(self, places: torch.Tensor) -> Predictions:
        """Those of some distributions."""
        return Predictions(self.tokens[places], self.logprobs[places])


def logits_of(model: Any, batch: Batch) -> torch.Tensor:
    """The logits that predict the batch's tokens, shape (tokens, vocabulary), at least float32."""
    kept = {"logits_to_keep": batch.kept} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    options = {"attention_mask": batch.mask, "position_ids": batch.positions, "use_cache": False, **kept}
    logits = model(input_ids=batch.ids, **options).logits
    first = batch.ids.shape[1] - logits.shape[1]
    found: torch.Tensor = logits[batch.rows, batch.columns - 1 - first]
    return found if found.dtype == torch.float64 else found.float()


@torch.no_grad()
def predictions(model: Any, batch: Batch, k: int) -> Predictions:
    """The model's k most likely tokens at every place of the batch (or all, if the vocabulary is smaller)."""
    logprobs = torch.log_softmax(logits_of(model, batch), -1)
    best = logprobs.topk(min(k, logprobs.shape[1]), -1)
    return Predictions(best.indices, best.values.float())


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """-sum_t w_t log p(token t)."""
    return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none") @ batch.weights.to(logits.dtype)


def distillation(logits: torch.Tensor, batch: Batch, expert: Predictions) -> torch.Tensor:
    """sum_t w_t KL(expert || model), over the expert's most likely tokens and all others as one."""
    theirs = expert.logprobs.to(logits.dtype)
    ours = logits.gather(1, expert.tokens) - logits.logsumexp(-1, keepdim=True)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    if expert.tokens.shape[1] < logits.shape[1]:
        rest, our_rest = (_rest(logprobs) for logprobs in (theirs, ours))
        divergence = divergence + rest * (rest.log() - our_rest.log())
    return divergence @ batch.weights.to(logits.dtype)


def _rest(logprobs: torch.Tensor) -> torch.Tensor:
    """The probability that the stated ones leave; above 0, so that its logarithm is finite."""
    return (1 - logprobs.exp().sum(-1)).clamp_min(1e-6)
