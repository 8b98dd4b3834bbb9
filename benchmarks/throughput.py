"""Tokens per second of a whole evaluation, beside vLLM's own `generate` on the same prompts in the same process.

    python benchmarks/throughput.py RECIPE --repeats 8

Three figures: `generate` given all prompts of all tasks as one list; the evaluation of the same rows through tasks,
coroutines and scorers; and a scripted task of 2 to 6 turns whose environment takes 0 to 2 seconds per turn, of as many
tokens in all. Stop tokens are ignored, so that each way makes the same number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cycleqd_merge import load_recipe
from cycleqd_merge.evaluation.materials import Materials
from cycleqd_merge.evaluation.prompts import encode, render
from cycleqd_merge.evaluation.vllm_engine import VllmEngine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.checks import family_tokenizer
from cycleqd_merge.tasks.protocol import Message, Sampling


class Unending(VllmEngine):
    """The engine, with answers that run to their limit, counting their tokens."""

    tokens = 0

    async def _submit(self, tokens: list[int], params: Any) -> Any:
        params.ignore_eos, params.stop, params.stop_token_ids = True, [], []
        output = await super()._submit(tokens, params)
        self.tokens += len(output.outputs[0].token_ids)
        return output


class Turns:
    """A scripted conversation: the model's answers are thrown away, its environment takes its time."""

    def __init__(self, name: str, samples: int, tokens: int, delay: float) -> None:
        self.name, self._delay = name, delay
        draw = random.Random(0)
        self._turns = [draw.randint(2, 6) for _ in range(samples)]
        self._per_turn = max(tokens // sum(self._turns), 1)

    async def score(self, number: int, model: Any) -> None:
        """One sample."""
        draw = random.Random(number)
        messages: list[Message] = [{"role": "user", "content": f"Sample {number}: what is {number} + {number}?"}]
        for turn in range(self._turns[number]):
            answer = await model.chat(messages, Sampling(max_new_tokens=self._per_turn))
            await asyncio.sleep(draw.uniform(0, self._delay))
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": f"And what is {number} + {turn}?"},
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--repeats", type=int, default=1, help="how many times the rows are asked at once")
    parser.add_argument("--samples", type=int, default=2000, help="of the conversation")
    parser.add_argument("--delay", type=float, default=2.0, help="the environment's longest, in seconds")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    materials = Materials.open(load_recipe(options.recipe, options.set), options.recipe.parent)
    engine = Unending(materials.recipe.engine, materials.materialiser(()))  # type: ignore[arg-type]
    tokenizer = family_tokenizer(materials.family)
    figures: dict[str, dict[str, float]] = {}

    def record(name: str, tokens: int, seconds: float) -> None:
        figures[name] = {"tokens": tokens, "seconds": round(seconds, 2), "tokens/s": round(tokens / seconds)}
        print(name, json.dumps(figures[name]), flush=True)

    prompts, params = stock(materials, tokenizer, options.repeats)
    for attempt in ("warm up", "generate"):
        start = time.perf_counter()
        outputs = engine._llm.generate(prompts, params, use_tqdm=False)
        record(attempt, sum(len(output.outputs[0].token_ids) for output in outputs), time.perf_counter() - start)

    tasks = tuple(
        replace(task, name=f"{task.name} {n}") if n else task
        for n in range(options.repeats)
        for task in materials.suite
    )
    worker = Worker(engine, tasks)
    for attempt in ("warm up", "evaluation"):
        engine.tokens = 0
        engine._llm.reset_prefix_cache()
        evaluation = worker.evaluate(None)
        record(attempt, engine.tokens, evaluation.score_seconds)

    turns = Turns("turns", options.samples, engine.tokens, options.delay)

    async def converse() -> None:
        await asyncio.gather(*(turns.score(number, engine) for number in range(options.samples)))

    engine.tokens = 0
    engine._llm.reset_prefix_cache()
    start = time.perf_counter()
    asyncio.run(converse())
    record("conversations", engine.tokens, time.perf_counter() - start)
    engine.close()
    rate = {name: figure["tokens/s"] for name, figure in figures.items()}
    print(f"evaluation / generate: {rate['evaluation'] / rate['generate']:.3f}")
    print(f"conversations / evaluation: {rate['conversations'] / rate['evaluation']:.3f}")


def stock(materials: Materials, tokenizer: Any, repeats: int) -> tuple[list[Any], list[Any]]:
    """All prompts of all tasks with the sampling of each, for `LLM.generate`."""
    from vllm import SamplingParams

    from cycleqd_merge.evaluation.vllm_compat import final_only

    prompts, params = [], []
    for _ in range(repeats):
        for task in materials.suite:
            kind: Any = task.task
            for sample in task.samples("search"):
                prompt = kind.prompt_of(sample)
                text = prompt if isinstance(prompt, str) else render(tokenizer, prompt, None)
                prompts.append({"prompt_token_ids": encode(tokenizer, text)})
                limit = kind._sampling.max_new_tokens
                params.append(
                    SamplingParams(max_tokens=limit, temperature=0.0, ignore_eos=True, output_kind=final_only())
                )
    return prompts, params


if __name__ == "__main__":
    main()
