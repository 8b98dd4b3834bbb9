"""The engine on transformers: one model in memory, weights copied in place, prompts batched by length."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.evaluation.engines.chat import ChatModel
from cycleqd_merge.evaluation.loaded_model import load_model, skips_padding
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.end_tokens import end_tokens
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.merging.tokenizers import context_length, family_tokenizer
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Sampling


@dataclass(eq=False)
class _Request:
    """A waiting request: token ids, and either how to continue them or the number to score at the end."""

    tokens: list[int]
    sampling: Sampling | None
    scored: int
    answer: asyncio.Future[Any]


class TransformersEngine(ChatModel):
    """See `Engine`. Requests that wait at the same time share batches, whichever tasks they come from.

    Raises:
        ModelError: the model cannot be loaded, or its weights cannot be replaced in place.
    """

    def __init__(self, config: TransformersEngineConfig, materialiser: Materialiser) -> None:
        family = materialiser.family
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._batch_size = config.batch_size
        self._materialiser = materialiser
        self.device = torch.device(config.device or this_process().device)
        self._tokenizer = family_tokenizer(family)
        self._dtype = config.dtype
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else (self._tokenizer.eos_token_id or 0)
        self._reader = AnswerReader(self._tokenizer, end_tokens(family).ids, context_length(family, self._tokenizer))
        self._open_model()
        self._map = family.name_map(self.model)
        # only the last logits of a prompt are needed; all of them would take gigabytes with a large vocabulary
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self._pads = skips_padding(self.model)
        self._waiting: list[_Request] = []
        self._drainer: asyncio.Task[None] | None = None
        # a separate thread: tasks may fill asyncio's pool with slow work, and a load waits for the running batch
        self._thread = ThreadPoolExecutor(1, "engine")

    def _open_model(self) -> None:
        self.model: Any = load_model(self._materialiser.family, self._dtype, "engine").to(self.device)
        # `Sampling` alone controls the answers, not the penalties, temperatures and lengths in the checkpoint
        self.model.generation_config = GenerationConfig(pad_token_id=self._pad)
        self._resident = self.model.state_dict()

    def load(self, candidate: Candidate) -> None:
        self._thread.submit(self._load, candidate).result()

    def _load(self, candidate: Candidate) -> None:
        for name, tensor in candidate_tensors(candidate, self._materialiser):
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
                raise ValueError(f"tensor {name} of the child contains NaN or infinite values")
            self._map.copy_into(self._resident, name, tensor)

    def prepare(self, candidate: Candidate) -> None:
        """Do nothing: this process builds weights and answers prompts, one after the other."""

    def release(self) -> None:
        self.model, self._resident = None, {}

    def restore(self) -> None:
        self._open_model()

    def close(self) -> None:
        self._thread.shutdown()
        self.release()

    async def _generated(self, tokens: list[int], sampling: Sampling) -> tuple[Completion, Sequence[int]]:
        answer: tuple[Completion, Sequence[int]] = await self._submit(tokens, sampling)
        return answer

    async def _scored(self, tokens: list[int], scored: int) -> Likelihood:
        likelihood: Likelihood = await self._submit(tokens, None, scored)
        return likelihood

    async def _submit(self, tokens: list[int], sampling: Sampling | None, scored: int = 0) -> Any:
        loop = asyncio.get_running_loop()
        request = _Request(tokens, sampling, scored, loop.create_future())
        self._waiting.append(request)
        if self._drainer is None or self._drainer.done():
            self._drainer = loop.create_task(self._drain())
        return await request.answer

    async def _drain(self) -> None:
        """Answer batch after batch, the longest prompts first, until no request is waiting."""
        loop, batch = asyncio.get_running_loop(), list[_Request]()
        try:
            while self._waiting:
                await asyncio.sleep(0)  # let all tasks submit their requests before a batch is formed
                batch = self._take_batch()
                if not batch:
                    break
                scoring = batch[0].sampling is None
                work: Callable[[list[_Request]], list[Any]] = self._score if scoring else self._generate
                answers = await loop.run_in_executor(self._thread, work, batch)
                for request, answer in zip(batch, answers, strict=True):
                    if not request.answer.done():
                        request.answer.set_result(answer)
        except asyncio.CancelledError:  # the evaluation failed: no answer is needed any more
            self._thread.submit(int).result()  # wait for a running batch
            self._waiting = []
            raise
        except Exception as error:
            self._fail([*batch, *self._waiting], error)

    def _fail(self, requests: list[_Request], error: Exception) -> None:
        self._waiting = []
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)

    def _take_batch(self) -> list[_Request]:
        """The longest prompts with the same sampling (without padding: and length); empty if no request waits."""
        self._waiting = [request for request in self._waiting if not request.answer.done()]
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda request: -len(request.tokens))
        first = self._waiting[0]
        batch = [
            request
            for request in self._waiting
            if request.sampling == first.sampling and (self._pads or len(request.tokens) == len(first.tokens))
        ][: self._batch_size]
        taken = {id(request) for request in batch}
        self._waiting = [request for request in self._waiting if id(request) not in taken]
        return batch

    def _pad_left(self, batch: list[_Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both (batch, longest)."""
        width = max(len(request.tokens) for request in batch)
        ids = torch.full((len(batch), width), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, width - len(request.tokens) :] = torch.tensor(request.tokens)
            mask[row, width - len(request.tokens) :] = 1
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def _generate(self, batch: list[_Request]) -> list[tuple[Completion, list[int]]]:
        sampling = batch[0].sampling
        assert sampling is not None
        ids, mask = self._pad_left(batch)
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            torch.manual_seed(sampling.seed)
            options = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self._reader.end_ids(sampling) or None,
            stopping_criteria=[_StopStrings(self._reader, sampling, len(batch))] if sampling.stop else None,
            **options,
        )
        return [(self._reader.read(row, sampling), row) for row in output[:, ids.shape[1] :].tolist()]

    @torch.inference_mode()
    def _score(self, batch: list[_Request]) -> list[Likelihood]:
        """Log-probabilities of the last `scored` tokens of each request."""
        ids, mask = self._pad_left(batch)
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        kept = {"logits_to_keep": 1 + max(request.scored for request in batch)} if self._keeps_logits else {}
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, **kept).logits
        answers = []
        for row, request in enumerate(batch):
            scores = torch.log_softmax(logits[row, -request.scored - 1 : -1].float(), dim=-1)
            chosen = ids[row, -request.scored :]
            logprobs = scores.gather(1, chosen[:, None])[:, 0].tolist()
            answers.append(Likelihood(tuple(logprobs), bool((scores.argmax(dim=-1) == chosen).all())))
        return answers


class _StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows of a batch that a stop string ends; transformers' own criterion matches the prompts, too."""

    def __init__(self, reader: AnswerReader, sampling: Sampling, rows: int) -> None:
        self._reader, self._sampling = reader, sampling
        self._new: list[list[int]] = [[] for _ in range(rows)]
        self._done = [False] * rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._done[row]:
                self._new[row].append(token)
                self._done[row] = self._reader.stopped(self._new[row], self._sampling) is not None
        return torch.tensor(self._done, device=input_ids.device)
