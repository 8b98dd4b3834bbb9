"""Models that write what a table says, and tokenizers of three kinds with tokens that make answers hard to read.

A walking model's next token depends on the last token alone, by a random table, and its logits are far apart: every
engine writes the same tokens, whatever its rounding.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cycleqd_merge.evolution.draws import generator

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|end|>", "<|turn|>")
END = SPECIAL.index("</s>")
HIDDEN = 384
CONTEXT = 48
KINDS = ("byte-level", "byte-fallback", "unigram")
_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # no character of an answer, but bytes that are none
_MERGED = (" the", "\n\n", "ab", "abc", "é", " é", "Q:", "\nQ:", "  ")


def make_walking_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """byte-level: as GPT-2 and Llama 3; byte-fallback: as Llama 2; unigram: SentencePiece without bytes."""
    build = {"byte-level": _byte_level, "byte-fallback": _byte_fallback, "unigram": _unigram}[kind]
    tokenizer = build()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|end|>", "<|turn|>"],
        clean_up_tokenization_spaces=True,  # as many checkpoints state it
    )


def _bpe(alphabet: Sequence[str], merged: Sequence[str], **options: object) -> Tokenizer:
    """A BPE model over characters, with merges that lead to the `merged` words."""
    vocabulary = list(dict.fromkeys((*SPECIAL, *alphabet)))
    merges = []
    for word in merged:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append(word[:end])
    return Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, merges, **options))


def _byte_level() -> Tokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = _bpe(sorted(level.alphabet()), [level.pre_tokenize_str(word)[0][0] for word in _MERGED])
    tokenizer.pre_tokenizer, tokenizer.decoder = level, decoders.ByteLevel()
    return tokenizer


def _byte_fallback() -> Tokenizer:
    letters = ["▁", *string.ascii_letters, *":.,!?"]
    merged = [word.replace(" ", "▁") for word in _MERGED if word.replace(" ", "").isascii() and "\n" not in word]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = _bpe([*fallback, *letters], merged, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _unigram() -> Tokenizer:
    letters = ["▁", "\n", "é", *string.ascii_letters, *string.digits, *":.,!?"]
    pieces = dict.fromkeys((*SPECIAL, *letters, *(f"▁{letter}" for letter in letters[2:]), "▁the", "ab", "Q:", "\n\n"))
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in pieces], SPECIAL.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def random_table(kind: str, seed: int) -> list[int]:
    """The token that follows each token; special tokens, words and letters are more frequent than bytes."""
    tokenizer, rng = make_walking_tokenizer(kind), generator(seed, kind)
    chosen = [*range(len(tokenizer)), *(list(range(4, len(SPECIAL))) * 6), END, END]
    decoded = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    chosen += [number for number, text in enumerate(decoded) if len(text) > 1] * 4
    chosen += [number for number, text in enumerate(decoded) if text.isprintable() and text.isascii()] * 2
    return [int(rng.choice(chosen)) for _ in range(len(tokenizer))]


def make_walking_model(folder: Path, kind: str, table: Sequence[int]) -> Path:
    """A Llama whose layer adds nothing: its output depends on the last token alone."""
    config = LlamaConfig(
        vocab_size=len(table),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=HIDDEN // 64,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config).float()
    state = model.state_dict()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        state[f"model.layers.0.{name}.weight"].zero_()
    state["model.embed_tokens.weight"].copy_(torch.eye(len(table), HIDDEN))
    state["lm_head.weight"].zero_()[torch.tensor(table), torch.arange(len(table))] = 1.0
    model.save_pretrained(folder)
    make_walking_tokenizer(kind).save_pretrained(folder)
    return folder


def walk(table: Sequence[int], last: int, length: int) -> list[int]:
    """The tokens that a walking model writes after a prompt with this last token."""
    tokens = []
    for _ in range(length):
        tokens.append(last := table[last])
    return tokens


def random_stops(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], seed: int) -> tuple[str, ...]:
    """Up to three stop strings: most are parts of an answer's text, with or without its special tokens."""
    rng = generator(seed, "stops")
    plain, written = (tokenizer.decode([*tokens], skip_special_tokens=skip) for skip in (True, False))
    stops = []
    for _ in range(rng.integers(4)):
        text = str(rng.choice(np.array([plain, written, written, "".join(SPECIAL), "ab"], dtype=object)))
        text = max(text.split(_PARTIAL), key=len)
        start = int(rng.integers(max(len(text), 1)))
        stops.append(text[start : start + int(rng.integers(1, 7))])
    return tuple(stop for stop in stops if stop)
