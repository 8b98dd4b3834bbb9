"""Stock vLLM's answers on checkpoints, each in an engine of its own: `python fresh_vllm.py < JSON`.

Takes {"folders": [...], "prompts": [token ids ...], "options": {...}}; prints a JSON line per folder: for each prompt
the greedy tokens and the log-probabilities of the prompt's own tokens.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def answers(llm: Any, prompts: list[list[int]], tokens: int) -> list[list[list[float]]]:
    """One prompt after another: the composition of a batch affects rounding."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0.0, prompt_logprobs=0)
    found = []
    for prompt in prompts:
        output = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0]
        own = [output.prompt_logprobs[place][prompt[place]].logprob for place in range(1, len(prompt))]
        found.append([list(output.outputs[0].token_ids), own])
    return found


def main() -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # several engines one after another, in this process
    asked = json.load(sys.stdin)
    from vllm import LLM

    for folder in asked["folders"]:
        llm = LLM(folder, generation_config="vllm", disable_log_stats=True, **asked["options"])
        sys.stdout.write(json.dumps(answers(llm, asked["prompts"], asked["tokens"])) + "\n")
        del llm


if __name__ == "__main__":
    main()
