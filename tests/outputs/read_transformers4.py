"""Run with transformers 4: load models as their users do, and print what they say as JSON.

Arguments: folders. Per folder: logits of some tokens, the ids of a text, a rendered conversation and the end tokens.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

IDS = torch.arange(5, 95)[None]
TEXT = "Merge 3 models, please.\n"
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]


def read(folder: str, words: bool = True) -> dict[str, Any]:
    """A model's logits and, with `words`, what its tokenizer makes of texts."""
    auto: Any = AutoModelForCausalLM
    loading = {"trust_remote_code": True, "torch_dtype": "auto", "attn_implementation": "eager"}
    model, report = auto.from_pretrained(folder, output_loading_info=True, **loading)
    with torch.no_grad():
        logits = model(IDS).logits[0].float()
    found = {
        "wrong": [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]],
        "dtype": str(model.dtype),
        "logits": logits.tolist(),
        "ends": model.generation_config.eos_token_id,
    }
    if not words:
        return found
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    chat = tokenizer.apply_chat_template(TURNS, tokenize=False) if tokenizer.chat_template else None
    return {**found, "ids": tokenizer(TEXT).input_ids, "chat": chat, "class": type(tokenizer).__name__}


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({"version": transformers.__version__, "read": {each: read(each) for each in sys.argv[1:]}}, sys.stdout)
