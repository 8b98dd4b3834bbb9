"""Small tokenizers in the forms of well-known models, trained on a page of text in a fraction of a second.

    tokenizer = make_family_tokenizer("llama2")

Each follows the `tokenizer.json` of the models that it is named after: normaliser, pre-tokeniser, model, decoder and
the tokens that it adds to every text. `APPENDING` add an end token, `DOUBLED` writes BOS twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SIZE = 700
"""Ids of all tokenizers are smaller."""

_TEXT = """Question: What do bees make? Answer: honey, which they store in combs; a hive makes 20 to 60 pounds a year.
Question: What turns a river into light? Answer: hydroelectric power from a dam (or several dams) with 12 turbines.
The options are: (A) honey (B) hydroelectric power (C) a dam (D) none of these. Choose one letter and say why, please.
def answer(question: str) -> str:\n    \"\"\"The answer.\"\"\"\n    return {"bees": "honey", 'river': "power"}[question]
user: hello, how are you?\nassistant:\nI am fine. It isn't cold; we're warm. 3.14 + 2 = 5.14, and 100 - 1 = 99!
"""
_CORPUS = [*_TEXT.splitlines(keepends=True), _TEXT]
_SPLITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's regular expression."""


@dataclass(frozen=True)
class Form:
    """How one family's texts become tokens.

    single: the post-processor's template; `$A` is the text. special: named special tokens, in the order of their ids.
    """

    model: Callable[[], Any]
    special: dict[str, str]
    single: str = "$A"
    normalizer: Any = None
    pre_tokenizer: Any = None
    decoder: Any = None


def _byte_level() -> Any:
    return models.BPE()


def _byte_fallback() -> Any:
    return models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")


_GPT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_SPLIT = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(_SPLITS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
)
_PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
_FUSE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
_FIRST = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
_META = pre_tokenizers.Metaspace(prepend_scheme="always")

FORMS: dict[str, Form] = {
    "gpt2": Form(_byte_level, _GPT, pre_tokenizer=_BYTES, decoder=decoders.ByteLevel()),
    "gpt_neox": Form(
        _byte_level,
        {**_GPT, "pad_token": "<|padding|>"},
        normalizer=normalizers.NFC(),
        pre_tokenizer=_BYTES,
        decoder=decoders.ByteLevel(),
    ),
    "falcon": Form(
        _byte_level,
        {"eos_token": "<|endoftext|>"},
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                _BYTES,
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
        decoder=decoders.ByteLevel(),
    ),
    "llama3": Form(
        _byte_level,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "<|begin_of_text|> $A",
        pre_tokenizer=_SPLIT,
        decoder=decoders.ByteLevel(),
    ),
    "qwen": Form(
        _byte_level,
        {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        normalizer=normalizers.NFC(),
        pre_tokenizer=_SPLIT,
        decoder=decoders.ByteLevel(),
    ),
    "deepseek": Form(
        _byte_level,
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},  # noqa: RUF001
        "<｜begin▁of▁sentence｜> $A",  # noqa: RUF001
        pre_tokenizer=_SPLIT,
        decoder=decoders.ByteLevel(),
    ),
    "llama2": Form(_byte_fallback, _LLAMA, "<s> $A", normalizer=_PREPEND, decoder=_FUSE),
    "mistral": Form(_byte_fallback, _LLAMA, "<s> $A", pre_tokenizer=_FIRST, decoder=_FUSE),
    "gemma": Form(
        _byte_fallback,
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        "<bos> $A",
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
        decoder=_FUSE,
    ),
    "xglm": Form(
        models.Unigram,
        {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "</s> $A",  # its texts begin with the end token
        normalizer=normalizers.NFKC(),
        pre_tokenizer=_META,
        decoder=decoders.Metaspace(),
    ),
    "t5": Form(
        models.Unigram,
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "$A </s>",
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), _META]),
        decoder=decoders.Metaspace(),
    ),
    "bert": Form(
        lambda: models.WordPiece(unk_token="[UNK]"),
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        "[CLS] $A [SEP]",
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    ),
    "llama2_ends": Form(_byte_fallback, _LLAMA, "<s> $A </s>", normalizer=_PREPEND, decoder=_FUSE),
    "gemma_ends": Form(
        _byte_fallback,
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        "$A <eos>",  # and no BOS token
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
        decoder=_FUSE,
    ),
    "gpt2_ends": Form(_byte_level, _GPT, "$A <|endoftext|>", pre_tokenizer=_BYTES, decoder=decoders.ByteLevel()),
    "qwen_ends": Form(
        _byte_level,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "$A <|endoftext|>",  # not its end token, as in embedding models
        pre_tokenizer=_SPLIT,
        decoder=decoders.ByteLevel(),
    ),
    "doubled": Form(_byte_fallback, _LLAMA, "<s> <s> $A", pre_tokenizer=_FIRST, decoder=_FUSE),
}
APPENDING = ("t5", "bert", "llama2_ends", "gemma_ends", "gpt2_ends", "qwen_ends")
DOUBLED = "doubled"


@lru_cache
def _backend(name: str) -> str:
    """The trained tokenizer, as JSON."""
    form = FORMS[name]
    tokenizer = Tokenizer(form.model())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(form, part) is not None:
            setattr(tokenizer, part, getattr(form, part))
    special, corpus = list(dict.fromkeys(form.special.values())), _CORPUS
    if getattr(tokenizer.model, "byte_fallback", False):  # sentencepiece learns words, but then splits whole texts
        tokenizer.pre_tokenizer, corpus = _META, [line.rstrip() for line in _CORPUS[:-1]]
    tokenizer.train_from_iterator(corpus, _trainer(tokenizer.model, special))
    if getattr(tokenizer.model, "byte_fallback", False):
        tokenizer.pre_tokenizer = form.pre_tokenizer
    wanted = [(token, number) for token in special if (number := tokenizer.token_to_id(token)) is not None]
    if form.single != "$A":
        tokenizer.post_processor = processors.TemplateProcessing(single=form.single, special_tokens=wanted)
    return str(tokenizer.to_str())


def _trainer(model: Any, special: list[str]) -> Any:
    if isinstance(model, models.Unigram):
        return trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    if isinstance(model, models.WordPiece):
        return trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    fallback = model.byte_fallback
    alphabet = [] if fallback else pre_tokenizers.ByteLevel.alphabet()
    special = [*special, *(f"<0x{byte:02X}>" for byte in range(256))] if fallback else special
    return trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )


def make_family_tokenizer(name: str, chat_template: str | None = None, added: Iterable[str] = ()) -> Any:
    """A tokenizer of the family `name`; `added` are special tokens behind the others, which eat blanks after them."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_backend(name)), **FORMS[name].special)
    tokenizer.add_tokens([AddedToken(token, rstrip=True) for token in added], special_tokens=True)
    tokenizer.chat_template = chat_template
    return tokenizer
