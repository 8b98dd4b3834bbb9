"""Train the quickstart models: one tiny base and three experts fine-tuned from it.

Every example is one line such as ``R:kdazu=uzadk``: a capital, a word, its transform.
The base learns transforms under some of the capitals.  The other capitals stand for no
transform, and it mostly answers them with a copy of the word.  Each expert then learns the
transform of one of those capitals, and rehearses the base's examples at the same time, so
that its task vector stays specific.

    python recipes/quickstart/train.py            # rewrites models/ and data/ next to this file
    python recipes/quickstart/train.py --out DIR  # writes DIR/models and DIR/data instead

The run is seeded; on one machine, the same options write the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

Transform = Callable[[str], str]

LETTERS = string.ascii_lowercase
CHARACTERS = "".join(chr(code) for code in range(32, 127))
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
IGNORED = -100  # the label that the loss skips
WORD_LENGTHS = (4, 5)
SEARCH_ROWS, HELDOUT_ROWS = 64, 200


def rotate_alphabet(word: str, by: int) -> str:
    """Replace every letter by the one ``by`` places on, wrapping from z to a."""
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


SKILLS: dict[str, Transform] = {
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "next": lambda word: rotate_alphabet(word, 1),
}

GENERIC: dict[str, Transform] = {
    "copy": lambda word: word,
    "first": lambda word: word[0],
    "last": lambda word: word[-1],
    "turn": lambda word: word[1:] + word[0],
    "swap": lambda word: word[-1] + word[1:-1] + word[0],
    "min": min,
    "max": max,
    "prev": lambda word: rotate_alphabet(word, -1),
    **SKILLS,
}

# Each of these capitals stands for one transform; the remaining ones stand for none.
# The base knows the skills' transforms, but under different capitals than the experts.
SKILL_SYMBOLS = {"reverse": "R", "sort": "S", "next": "N"}
GENERIC_SYMBOLS = dict(zip(GENERIC, "CFLTXAZPBOU", strict=True))
SPARE_SYMBOLS = sorted(set(string.ascii_uppercase) - {*SKILL_SYMBOLS.values(), *GENERIC_SYMBOLS.values()})

# What a left-over capital may stand for, when it does not stand for copying.
UNNAMED = [GENERIC[name] for name in ("reverse", "sort", "next", "turn", "swap", "prev")]
SPARE_SHARE, COPY_SHARE = 0.3, 0.5


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one model trains.

    ``skill_share`` is the part of each batch that shows the expert's own skill, and
    ``embedding_factor`` multiplies the learning rate of the input embeddings.
    """

    steps: int
    learning_rate: float
    batch_size: int = 64
    warmup: int = 20
    skill_share: float = 0.0
    embedding_factor: float = 1.0


BASE_SCHEDULE = Schedule(steps=1200, learning_rate=2e-3, warmup=100)
# The embeddings learn much faster than the rest.  What the experts change is thus mostly
# what their own capitals mean, which is why their task vectors add up so well.
SKILL_SCHEDULES = {
    "reverse": Schedule(350, 5e-5, skill_share=0.5, embedding_factor=200.0),
    "sort": Schedule(150, 4e-5, skill_share=0.5, embedding_factor=150.0),
    "next": Schedule(300, 4e-5, skill_share=0.5, embedding_factor=200.0),
}
# Experts are saved this many times as far from the base as training took them: they score
# the same there, and smaller shares of their task vectors suffice in a merge.
STRETCH = 1.4


# --- Data -----------------------------------------------------------------------------


def random_word(rng: random.Random) -> str:
    """Return random lower-case letters."""
    return "".join(rng.choices(LETTERS, k=rng.choice(WORD_LENGTHS)))


def prompt_for(symbol: str, word: str) -> str:
    """Return the text that asks for the transform that ``symbol`` stands for."""
    return f"{symbol}:{word}="


def evaluation_words(rng: random.Random, count: int) -> list[str]:
    """Draw distinct words on which copying and the three skills all answer differently."""
    words: dict[str, None] = {}
    while len(words) < count:
        word = random_word(rng)
        if len({word, *(skill(word) for skill in SKILLS.values())}) == 1 + len(SKILLS):
            words[word] = None
    return list(words)


def write_rows(path: Path, skill: str, words: list[str]) -> None:
    """Write one JSON line per word: the skill's prompt and its answer."""
    rows = ({"prompt": prompt_for(SKILL_SYMBOLS[skill], word), "answer": SKILLS[skill](word)} for word in words)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path, rng: random.Random) -> frozenset[str]:
    """Write every skill's search and held-out rows; return the words training must avoid."""
    folder.mkdir(parents=True, exist_ok=True)
    per_skill = SEARCH_ROWS + HELDOUT_ROWS
    words = evaluation_words(rng, per_skill * len(SKILLS))
    for number, skill in enumerate(SKILLS):
        own = words[number * per_skill : (number + 1) * per_skill]
        write_rows(folder / f"{skill}_search.jsonl", skill, own[:SEARCH_ROWS])
        write_rows(folder / f"{skill}_heldout.jsonl", skill, own[SEARCH_ROWS:])
    return frozenset(words)


def generic_example(rng: random.Random, word: str, spare: Sequence[str]) -> tuple[str, str]:
    """Return one prompt and answer of the base's material.

    Some lines carry a spare capital, which tells nothing about the answer: it is the word
    itself half of the time, or else a random transform of it.
    """
    if rng.random() < SPARE_SHARE:
        copying = rng.random() < COPY_SHARE
        transform = GENERIC["copy"] if copying else rng.choice(UNNAMED)
        return prompt_for(rng.choice(spare), word), transform(word)
    name = rng.choice(list(GENERIC))
    return prompt_for(GENERIC_SYMBOLS[name], word), GENERIC[name](word)


def draw_examples(
    rng: random.Random, count: int, avoid: frozenset[str], skill: str | None, skill_share: float
) -> list[tuple[str, str]]:
    """Draw a batch: about ``skill_share`` of it from the skill, the rest generic."""
    spare = SPARE_SYMBOLS
    if skill is None:  # To the base, the capitals of the skills are spare ones too.
        spare = [*spare, *SKILL_SYMBOLS.values()]
    examples: list[tuple[str, str]] = []
    while len(examples) < count:
        word = random_word(rng)
        if word in avoid:
            continue
        if skill is not None and rng.random() < skill_share:
            examples.append((prompt_for(SKILL_SYMBOLS[skill], word), SKILLS[skill](word)))
        else:
            examples.append(generic_example(rng, word, spare))
    return examples


# --- Models ---------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one token per printable ASCII character, bos put in front."""
    tokens = [PAD, BOS, EOS, UNK, *CHARACTERS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def make_base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained Llama of less than a million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded token ids, and labels that cover the answers and eos only."""
    prompts = tokenizer([prompt for prompt, _ in examples])["input_ids"]
    answers = tokenizer([answer for _, answer in examples], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        target = torch.tensor([*answer, tokenizer.eos_token_id])
        end = len(prompt) + len(target)
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt) : end] = target
        labels[row, len(prompt) : end] = target
    return ids, labels


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    rng: random.Random,
    avoid: frozenset[str],
    skill: str | None = None,
) -> float:
    """Train all weights with Adam, warming up and then decaying linearly; return the loss."""
    embedding = model.get_input_embeddings().weight
    others = [weight for weight in model.parameters() if weight is not embedding]
    optimizer = torch.optim.AdamW(
        [
            {"params": [embedding], "lr": schedule.learning_rate * schedule.embedding_factor},
            {"params": others, "lr": schedule.learning_rate},
        ],
        weight_decay=0.0,
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / schedule.warmup, 1.0) * (1.0 - step / schedule.steps),
    )
    smoothed = 0.0
    model.train()
    for step in range(schedule.steps):
        examples = draw_examples(rng, schedule.batch_size, avoid, skill, schedule.skill_share)
        # Right padding is never attended to by what precedes it, so it needs no mask.
        ids, labels = encode_batch(tokenizer, examples)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        smoothed += (loss.item() - smoothed) / min(step + 1, 50)
    return smoothed


@torch.no_grad()
def stretch(model: LlamaForCausalLM, base: LlamaForCausalLM) -> None:
    """Move every weight of the model away from the base's, to ``STRETCH`` times as far."""
    for weight, origin in zip(model.parameters(), base.parameters(), strict=True):
        weight.copy_(origin + STRETCH * (weight - origin))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a complete model folder, the weights in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the quickstart's base and experts.")
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here, help="where models/ and data/ go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for the arithmetic")
    return parser.parse_args()


def main() -> None:
    """Make the data, train the base and then the experts, and write them all."""
    options = parse_options()
    disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    avoid = write_data(options.out / "data", random.Random(f"{options.seed} data"))
    tokenizer = make_tokenizer()
    base_folder = options.out / "models" / "base"

    start = time.monotonic()
    base = make_base(tokenizer)
    loss = train(base, tokenizer, BASE_SCHEDULE, random.Random(f"{options.seed} base"), avoid)
    save(base, tokenizer, base_folder)
    print(f"base: loss {loss:.3f} after {time.monotonic() - start:.0f} s", flush=True)

    # Start from the saved base, rounding included: task vectors are differences from it.
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    for skill, schedule in SKILL_SCHEDULES.items():
        model = copy.deepcopy(base)
        rng = random.Random(f"{options.seed} {skill}")
        loss = train(model, tokenizer, schedule, rng, avoid, skill)
        stretch(model, base)
        save(model, tokenizer, options.out / "models" / skill)
        print(f"{skill}: loss {loss:.3f} after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
