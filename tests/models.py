"""Tiny real models, made in a folder in a fraction of a second: bases, experts, adapters, and recipes over them.

    base = make_base(tmp_path / "base", "llama")
    first = make_expert(base, tmp_path / "first", seed=1)
    second = make_adapter(base, tmp_path / "second", seed=2, rank=4)
    recipe = make_recipe(tmp_path, base, {"first": first, "second": on_base(base, second)})

(Import them by `from tests.models import make_base`.)
Everything follows from the seeds. Models have two layers and one token per printable ASCII character.
"""

from __future__ import annotations

import json
import shutil
import string
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.merging.family import ModelFamily, open_family

Architecture = Literal["llama", "qwen2", "gpt2"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "gpt2")

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
TOKENS = (*SPECIAL_TOKENS, "Ċ", "Ġ", *(chr(code) for code in range(33, 127)))  # as byte-level BPE writes "\n" and " "
VOCABULARY = len(TOKENS)
LAYERS = 2
HIDDEN = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def make_base(
    folder: Path,
    architecture: Architecture = "llama",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    tied: bool | None = None,
    hidden: int = HIDDEN,
) -> Path:
    """A random model with its tokenizer, as `save_pretrained` writes it; returns `folder`.

    tied: share input and output embedding; by default as the architecture does (gpt2 does, the others do not).
    hidden: width of the model, of four heads.
    """
    config = _config(architecture, architecture == "gpt2" if tied is None else tied, hidden)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases start at 0 and norms at 1: too plain to tell tensors apart
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def _config(architecture: Architecture, tied: bool, hidden: int) -> PretrainedConfig:
    shared: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "pad_token_id": TOKENS.index("<pad>"),
        "bos_token_id": TOKENS.index("<s>"),
        "eos_token_id": TOKENS.index("</s>"),
    }
    if architecture == "gpt2":
        return GPT2Config(n_embd=hidden, n_layer=LAYERS, n_head=4, n_positions=128, **shared)
    make: Callable[..., PretrainedConfig] = {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture]
    return make(
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        **shared,
    )


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of one token per character; `added` tokens come behind the others."""
    vocabulary = {token: number for number, token in enumerate((*TOKENS, *added))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = chat_template
    return fast


def make_expert(base: Path, folder: Path, seed: int, scale: float = 0.02) -> Path:
    """A stand-in for a full fine-tune: every float tensor of the base plus N(0, scale^2), in its dtype."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(base / "model.safetensors")
    write_tensors(folder, {name: _shifted(tensor, (seed, name), scale) for name, tensor in tensors.items()})
    return folder


def _shifted(tensor: torch.Tensor, key: tuple[int, str], scale: float) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    noise = generator(*key).normal(0.0, scale, size=tuple(tensor.shape))
    return (tensor.double() + torch.from_numpy(noise)).to(tensor.dtype)


def make_adapter(base: Path, folder: Path, seed: int, rank: int = 4, scale: float = 0.1, **options: Any) -> Path:
    """A LoRA adapter as peft saves it, every trained value N(0, scale^2) away from where training starts.

    options: those of `peft.LoraConfig`; by default all linear layers are adapted.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(**{"r": rank, "task_type": "CAUSAL_LM", "target_modules": "all-linear", **options})
    with torch.no_grad(), warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # peft has much to say of unusual options
        torch.manual_seed(seed)  # training starts at random values
        adapted = peft.get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(_shifted(parameter, (seed, name), scale))
        adapted.save_pretrained(str(folder))
    return folder


def on_base(base: Path, adapter: Path) -> str:
    """The reference of an adapter expert, as a recipe states it."""
    return f"{base}+{adapter}"


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of an unsharded checkpoint."""
    return load_file(folder / "model.safetensors")


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write (or overwrite) the unsharded weights of a checkpoint."""
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, such as a model's config.json."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_rows(path: Path, rows: int, choices: str, seed: int) -> Path:
    """A JSONL file: a random `question` of letters, and an `answer` that is one of the characters in `choices`."""
    rng = generator(seed, "rows")
    letters = list(string.ascii_lowercase + " ")
    lines = [
        {"question": "".join(rng.choice(letters, size=12)), "answer": str(rng.choice(list(choices)))}
        for _ in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_task(
    folder: Path, name: str, expert: str | None = None, choices: str = "ab", rows: int = 16
) -> dict[str, Any]:
    """An inline multiple-choice task as a recipe states it, with its rows in `folder`.

    Random models score about 1 / len(choices) and differ in their scores; the bounds [0, 1] keep every run possible.
    """
    path = make_rows(folder / f"{name}.jsonl", rows, choices, seed=len(name))
    definition = {
        "kind": "generate",
        "data": {"rows": {"path": str(path)}},
        "prompt": "{{ question }}: ",
        "scorer": {"kind": "multiple_choice", "choices": list(choices)},
    }
    use: dict[str, Any] = {"task": definition, "name": name, "bounds": [0.0, 1.0]}
    return use if expert is None else {**use, "expert": expert}


def make_recipe(folder: Path, base: Path, experts: Mapping[str, Path | str], **settings: Any) -> Recipe:
    """A recipe over models on disk, with the run directory `folder`/run.

    It has two tasks, `letters` and `digits`, for the first two experts. settings: further keys of the recipe, or other
    values for these, such as `evolution={"generations": 4}`, `models={"vocabulary": "base"}` or `tasks=[...]`.
    """
    first, second = list(experts)[:2]
    folder.mkdir(parents=True, exist_ok=True)
    stated = {
        "base": str(base),
        "experts": {name: str(reference) for name, reference in experts.items()},
        "output": str(folder / "run"),
        **settings,
    }
    if "tasks" not in stated:
        stated["tasks"] = [make_task(folder, "letters", first, "ab"), make_task(folder, "digits", second, "123")]
    return Recipe.model_validate(stated)


def short_quickstart(folder: Path) -> Path:
    """A copy of the folder `recipes` in `folder`, whose quickstart has the first 12 rows of each file, and short fits;
    that recipe."""
    source = Path(__file__).parents[1] / "recipes"
    shutil.copytree(source, folder / "recipes")
    for rows in (folder / "recipes" / "quickstart" / "data").glob("*.jsonl"):
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:12]))
    recipe = folder / "recipes" / "quickstart.yaml"
    recipe.write_text(recipe.read_text() + "fit: {steps: 2, spread_steps: 1}\n")
    return recipe


def open_recipe_family(recipe: Recipe) -> ModelFamily:
    """Open base and experts of a recipe."""
    return open_family(recipe.pinned_models())
