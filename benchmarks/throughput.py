"""Tokens per second of a whole evaluation, compared with vLLM's own `generate` on the same prompts in one process.

    python benchmarks/throughput.py RECIPE --repeats 8

Three figures: `generate` with the prompts of all tasks as one list; the evaluation of the same rows through tasks,
coroutines and scorers; and a scripted task of 2 to 6 turns whose environment takes 0 to 2 seconds per turn, with the
same total of tokens. Stop tokens are ignored, so that all three generate the same number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from cycleqd_merge import load_recipe
from cycleqd_merge.evaluation.engines.prompts import encode, render
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.tasks.protocol import LanguageModel, Message, Sampling


class Unending(VllmEngine):
    """The engine with answers that always reach the token limit; counts tokens."""

    tokens = 0

    async def _submit(self, tokens: list[int], params: Any) -> Any:
        params.ignore_eos, params.stop, params.stop_token_ids = True, [], []
        output = await super()._submit(tokens, params)
        self.tokens += len(output.outputs[0].token_ids)
        return output


class Turns:
    """Scripted conversations: the model's answers are ignored, and the environment waits before each turn."""

    def __init__(self, samples: int, tokens: int, delay: float) -> None:
        draw = random.Random(0)
        self._delay = delay
        self._turns = [draw.randint(2, 6) for _ in range(samples)]
        self._per_turn = max(round(tokens / sum(self._turns)), 1)

    async def all(self, model: LanguageModel) -> None:
        """Run all conversations concurrently."""
        await asyncio.gather(*(self._one(number, turns, model) for number, turns in enumerate(self._turns)))

    async def _one(self, number: int, turns: int, model: LanguageModel) -> None:
        draw = random.Random(number)
        messages: list[Message] = [{"role": "user", "content": f"Sample {number}: what is {number} + {number}?"}]
        for turn in range(turns):
            answer = await model.chat(messages, Sampling(max_new_tokens=self._per_turn))
            await asyncio.sleep(draw.uniform(0, self._delay))
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": f"And what is {number} + {turn}?"},
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--repeats", type=int, default=1, help="number of times that each row is submitted at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000, help="number of conversations")
    parser.add_argument("--delay", type=float, default=2.0, help="the environment's longest wait, in seconds")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    opened = OpenedRecipe.open(load_recipe(options.recipe, options.set))
    engine = Unending(opened.recipe.engine, opened.materialiser(()))  # type: ignore[arg-type]
    tokenizer = family_tokenizer(opened.family)
    rates: dict[str, list[float]] = {}

    def record(name: str, tokens: int, seconds: float) -> None:
        rates.setdefault(name, []).append(tokens / seconds)
        print(f"{name}: {tokens} tokens in {seconds:.2f} s, {tokens / seconds:.0f}/s", flush=True)

    prompts, params = stock(opened, tokenizer, options.repeats)
    tasks = tuple(
        replace(task, name=f"{task.name} {n}") if n else task for n in range(options.repeats) for task in opened.suite
    )
    worker = Worker(engine, tasks)
    engine._llm.generate(prompts, params, use_tqdm=False)  # warm up
    for _ in range(options.rounds):
        engine._llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs = engine._llm.generate(prompts, params, use_tqdm=False)
        record("generate", sum(len(o.outputs[0].token_ids) for o in outputs), time.perf_counter() - start)
        engine._llm.reset_prefix_cache()
        engine.tokens = 0
        evaluation = worker.evaluate(None)
        record("evaluation", engine.tokens, evaluation.score_seconds)
        turns = Turns(options.samples, engine.tokens, options.delay)
        engine._llm.reset_prefix_cache()
        engine.tokens, start = 0, time.perf_counter()
        asyncio.run(turns.all(engine))
        record("conversations", engine.tokens, time.perf_counter() - start)
    engine.close()
    rate = {name: median(values) for name, values in rates.items()}
    print(f"medians: evaluation / generate {rate['evaluation'] / rate['generate']:.3f}")
    print(f"medians: conversations / evaluation {rate['conversations'] / rate['evaluation']:.3f}")


def stock(opened: OpenedRecipe, tokenizer: Any, repeats: int) -> tuple[list[Any], list[Any]]:
    """The prompts of all tasks, each with its sampling parameters, for `LLM.generate`."""
    from vllm import SamplingParams

    from cycleqd_merge.evaluation.engines.vllm_compat import final_only

    prompts, params = [], []
    for _ in range(repeats):
        for task in opened.suite:
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
