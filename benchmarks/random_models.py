"""Write a random Llama of Llama-3 8B's shape, a full expert and two LoRA experts of it, and a recipe for them.

    python benchmarks/random_models.py FOLDER                # 33 GB
    python benchmarks/random_models.py FOLDER --layers 2 --hidden 256 --vocabulary 1024

Tensors are made one layer at a time, on a GPU if there is one; the words of the tokenizer are numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

HEAD = 128
LINEAR = {
    "self_attn.q_proj": ("hidden", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("keys", "hidden"),
    "self_attn.o_proj": ("hidden", "hidden"),
    "mlp.gate_proj": ("inner", "hidden"),
    "mlp.up_proj": ("inner", "hidden"),
    "mlp.down_proj": ("hidden", "inner"),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config(layers: int, hidden: int, vocabulary: int) -> LlamaConfig:
    """The configuration of Llama-3 8B, or of a smaller model with its proportions."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=max(hidden // HEAD // 4, 1),
        head_dim=HEAD,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )


def shapes(of: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the linear layers by the ends of their names."""
    heads = HEAD * of.num_key_value_heads
    sizes = {"hidden": of.hidden_size, "inner": of.intermediate_size, "keys": heads}
    return {name: (sizes[rows], sizes[columns]) for name, (rows, columns) in LINEAR.items()}


def layers(of: LlamaConfig, seed: int, expert: float = 0.0) -> Iterator[dict[str, torch.Tensor]]:
    """The model's tensors, one layer at a time. expert: scale of the noise that makes an expert of the base."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    own = torch.Generator(DEVICE).manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        tensor = torch.randn(shape, generator=draw, device=DEVICE) * scale
        if expert:
            tensor += torch.randn(shape, generator=own, device=DEVICE) * expert
        return tensor.to(torch.bfloat16).cpu()

    spread = of.hidden_size**-0.5
    for layer in range(of.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        found = {f"{prefix}{name}.weight": random(*shape, scale=spread) for name, shape in shapes(of).items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}{norm}.weight"] = torch.ones(of.hidden_size, dtype=torch.bfloat16)
        yield found
    yield {
        "model.embed_tokens.weight": random(of.vocab_size, of.hidden_size, scale=1.0),
        "model.norm.weight": torch.ones(of.hidden_size, dtype=torch.bfloat16),
        "lm_head.weight": random(of.vocab_size, of.hidden_size, scale=3 * spread),
    }


def write_model(folder: Path, of: LlamaConfig, seed: int, expert: float = 0.0) -> None:
    """Write a checkpoint of one file per layer."""
    folder.mkdir(parents=True)
    of.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, tensors in enumerate(layers(of, seed, expert), start=1):
        file = f"model-{number:05d}-of-{of.num_hidden_layers + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    words = Tokenizer(models.WordLevel({str(n): n for n in range(of.vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="0", eos_token="1")
    fast.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    fast.save_pretrained(folder)


def write_adapter(folder: Path, base: Path, of: LlamaConfig, seed: int, rank: int = 16) -> None:
    """Write a LoRA adapter of every linear layer."""
    draw = torch.Generator().manual_seed(seed)
    modules = [name.rpartition(".")[2] for name in LINEAR]
    LoraConfig(
        r=rank, lora_alpha=rank, target_modules=modules, base_model_name_or_path=str(base), task_type="CAUSAL_LM"
    ).save_pretrained(folder)
    tensors = {}
    for layer in range(of.num_hidden_layers):
        for name, (rows, columns) in shapes(of).items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=draw) * columns**-0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=draw) * 0.1 * rank**-0.5
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model's shape, by default Llama-3 8B's."""
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=128256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_shape(parser)
    options = parser.parse_args()
    write_family(options.folder.resolve(), config(options.layers, options.hidden, options.vocabulary))


def write_family(folder: Path, of: LlamaConfig) -> None:
    """Write a base, a full expert, two LoRA experts, and a recipe for them."""
    write_model(folder / "base", of, 0)
    write_model(folder / "full", of, 1, expert=0.1 * of.hidden_size**-0.5)
    for seed, name in enumerate(("one", "two"), start=2):
        write_adapter(folder / name, folder / "base", of, seed)
    rows = [{"prompt": " ".join(str((n * k) % of.vocab_size) for k in range(3, 20)), "answer": "0"} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "kind": "generate",
        "data": {"rows": {"path": str(folder / "rows.jsonl")}},
        "prompt": "{{ prompt }}",
        "answer": "{{ answer }}",
        "scorer": {"kind": "exact"},
        "max_new_tokens": 16,
    }
    recipe = {
        "base": str(folder / "base"),
        "experts": {
            "full": str(folder / "full"),
            "one": f"{folder / 'base'}+{folder / 'one'}",
            "two": f"{folder / 'base'}+{folder / 'two'}",
        },
        "tasks": [{"task": task, "name": name} for name in ("first", "second")],
        "evolution": {"mutation": {"rank": 64}},
        "output": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


if __name__ == "__main__":
    main()
