"""Tiny random models of many architectures, as `save_pretrained` writes them: two layers, stored as on the Hub.

    base = make_architecture("qwen3_moe", tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)

The tensors have the names of the checkpoints on the Hub, which transformers may rename, stack or concatenate on load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

from tests.models import VOCABULARY, make_tokenizer

SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Keys of the configuration of a tiny model."""


@dataclass(frozen=True)
class Architecture:
    """model_type: transformers' name. options: keys of its configuration besides the shared ones."""

    model_type: str
    options: dict[str, Any] = field(default_factory=dict)
    custom_code: bool = False

    def config(self, **sizes: Any) -> PretrainedConfig:
        """The configuration of the tiny model. sizes: other values for some keys."""
        shared = {} if "text_config" in self.options else SHARED
        return CONFIG_MAPPING[self.model_type](**{**shared, **self.options, **sizes})


_WINDOW = {"sliding_window": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama"),
    "llama_tied": Architecture("llama", {"tie_word_embeddings": True}),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_moe": Architecture("qwen3_moe", {**_EXPERTS, "moe_intermediate_size": 24, "head_dim": 16}),
    "mistral": Architecture("mistral", _WINDOW),
    "mixtral": Architecture("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": Architecture("olmo2"),
    "olmoe": Architecture("olmoe", _EXPERTS),
    "deepseek_v3": Architecture(
        "deepseek_v3",
        {
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "qk_nope_head_dim": 8,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "gemma2": Architecture("gemma2", {"head_dim": 16, **_WINDOW}),
    "gemma3": Architecture("gemma3_text", {"head_dim": 16, **_WINDOW}),
    "phi3": Architecture("phi3", _WINDOW),
    "gpt2": Architecture("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": Architecture("gpt_neox"),
    "falcon": Architecture("falcon"),
    "falcon_new": Architecture("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "cohere": Architecture("cohere"),
    "starcoder2": Architecture("starcoder2"),
    "stablelm": Architecture("stablelm"),
    "granite": Architecture("granite"),
    "smollm3": Architecture("smollm3"),
    "lfm2": Architecture("lfm2", {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]}),
    "mamba2": Architecture("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8}),
    "gpt_oss": Architecture("gpt_oss", {"num_local_experts": 4, "head_dim": 8}),
    "phi": Architecture("phi"),
    "bloom": Architecture("bloom", {"n_layer": 2, "n_head": 4}),
    "opt": Architecture("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "glm4": Architecture("glm4", {"head_dim": 8}),
    "custom_code": Architecture("llama", custom_code=True),
}
"""Architectures by a short name; the ones that transformers fuses on load are among them."""

_WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 64, "initializer_range": 0.1}
_WIDE_OF: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, "moe_intermediate_size": 64},
    # as large as the real model's, which are the only ones with kernels; the two names are in the Hub's config.json
    "deepseek_v3": {
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "moe_intermediate_size": 64,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    "gemma2": {"head_dim": 32},
    "gemma3": {"head_dim": 32},
    "gpt2": {"n_embd": 128},
    "gpt_neox": {"num_key_value_heads": 4},  # vLLM reads it, transformers does not
    "lfm2": {"conv_dim": 128, "block_dim": 128},
    "mamba2": {"head_dim": 32, "intermediate_size": 256, "state_size": 16, "chunk_size": 16},
    "gpt_oss": {"head_dim": 32},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 128},
    "glm4": {"head_dim": 32},
}
"""Sizes that vLLM's kernels support."""

_TEXT = {key: value for key, value in SHARED.items() if key != "initializer_range"}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

VISION_ARCHITECTURES: dict[str, Architecture] = {
    "llava": Architecture(
        "llava",
        {
            "text_config": {"model_type": "llama", **_TEXT},
            "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16, **_VISION},
            "image_token_index": 50,
        },
    ),
    "qwen2_vl": Architecture(
        "qwen2_vl",
        {
            "text_config": {**_TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "vision_config": {
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 14,
            },
            "image_token_id": 50,
            "video_token_id": 51,
            "vision_start_token_id": 52,
            "vision_end_token_id": 53,
        },
    ),
    "gemma3_vision": Architecture(
        "gemma3",
        {
            "text_config": {**_TEXT, "head_dim": 8, "sliding_window": 16},
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 50,
            "boi_token_index": 51,
            "eoi_token_index": 52,
        },
    ),
}
"""Models that read images too; a text-only prompt uses their language model."""

_CONFIGURATION_CODE = """from transformers import LlamaConfig


class MineConfig(LlamaConfig):
    model_type = "mine"
"""
_MODELING_CODE = """from transformers import LlamaForCausalLM, LlamaModel

from .configuration_mine import MineConfig
from .sizes_mine import SIZE


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
    size = SIZE


class MineModel(LlamaModel):
    config_class = MineConfig
"""


def make_architecture(
    name: str,
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    wide: bool = False,
    **options: Any,
) -> Path:
    """A random model of an architecture of this module with its tokenizer; returns `folder`.

    wide: of a size that vLLM runs. options: further keys of the configuration.
    """
    architecture = (ARCHITECTURES | VISION_ARCHITECTURES)[name]
    kind: Any = AutoModelForImageTextToText if name in VISION_ARCHITECTURES else AutoModelForCausalLM
    sizes = {**_WIDE, **_WIDE_OF.get(name, {})} if wide else {}
    config = architecture.config(**{**sizes, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config).to(dtype)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.ndim == 1 and tensor.dtype.is_floating_point:  # zeros and ones are too plain to tell apart
                    tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    if architecture.custom_code:
        _write_code(folder)
    return folder


def _write_code(folder: Path) -> None:
    """Turn a Llama into a model whose repository has its own code, in three files."""
    (folder / "configuration_mine.py").write_text(_CONFIGURATION_CODE)
    (folder / "modeling_mine.py").write_text(_MODELING_CODE)
    (folder / "sizes_mine.py").write_text('SIZE = "tiny"\n')
    path = folder / "config.json"
    code = {
        "AutoConfig": "configuration_mine.MineConfig",
        "AutoModel": "modeling_mine.MineModel",  # vLLM builds this one
        "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    }
    changes = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": code}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
