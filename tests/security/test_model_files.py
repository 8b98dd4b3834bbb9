"""Models and data files of strangers: each opens, or is refused in one line, within limits, and runs nothing."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import torch

from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.checks import require_mergeable
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.tokenizer_folders import open_tokenizer
from cycleqd_merge.tasks.rows import read_rows
from tests.hub.address import BOUND
from tests.hub.conftest import sign_in
from tests.hub.server import LocalHub, User
from tests.models import edit_json, make_adapter, make_base, make_expert, on_base, read_tensors, write_tensors
from tests.security.attacks import Attack, cases
from tests.security.forked import GIB, outcome_of

Change = Callable[[Path], object]
WEIGHTS, SHARD, INDEX = "model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"
CONFIG, ADAPTER, TOKENIZER, SETTINGS = "config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"
NORM = "model.norm.weight"
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
SLOW = "(([a-z_.0-9]+)+)+!"
"""A regular expression that backtracks for ages on the name of a module."""


@dataclass(frozen=True)
class Hostile:
    """A changed model. target: base, full or adapter. says: what the error contains; None if it is accepted."""

    target: str
    change: Change
    says: str | None
    pickles: bool = False


@dataclass(frozen=True)
class Models:
    """Tiny models; only `base` has a tokenizer. code: Python code that leaves the file `ran`."""

    base: Path
    full: Path
    adapter: Path
    ran: Path


class Evil:
    """Its pickle opens a file for writing."""

    def __init__(self, ran: Path) -> None:
        self.ran = str(ran)

    def __reduce__(self) -> Any:
        return open, (self.ran, "w")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("hostile")
    base = make_base(folder / "base", "llama")
    edit_json(base / SETTINGS, chat_template=None)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    full, adapter = make_expert(base, folder / "full", seed=1), make_adapter(base, folder / "adapter", seed=2)
    for name in (TOKENIZER, SETTINGS):
        (full / name).unlink()
    (folder / "outside").mkdir()
    shutil.copy(full / WEIGHTS, folder / "outside")
    whole = Models(base, full, adapter, folder / "ran")
    assert outcome_of(partial(opened, whole, "nothing", ModelsConfig())) is None
    return whole


def opened(models: Models, target: str, settings: ModelsConfig) -> None:
    """Open and check the family, as every command does."""
    experts = {"full": str(models.full), "adapter": on_base(models.base, models.adapter)}
    require_mergeable(open_family(PinnedModels(str(models.base), experts, settings)))
    if target == "tokenizer":
        open_tokenizer(models.base, settings)


def header(path: Path, tensors: Any, data: bytes = b"", length: int | None = None) -> None:
    """Write a safetensors file with this header."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def weights(tensors: Any, length: int | None = None) -> Change:
    return lambda folder: header(folder / WEIGHTS, tensors, b"", length)


def tensor(new: str = NORM, **changes: Any) -> Change:
    """Changes the header's entry of a tensor."""

    def change(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        end = 8 + struct.unpack("<Q", whole[:8])[0]
        stated = json.loads(whole[8:end])
        stated[new] = {**stated.pop(NORM), **changes}
        header(folder / WEIGHTS, stated, whole[end:])

    return change


def added_tensors(count: int) -> Change:
    """Adds tensors without values."""
    return lambda folder: header(
        folder / WEIGHTS, {f"t{n}": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]} for n in range(count)}
    )


def nan(folder: Path) -> None:
    tensors = read_tensors(folder)
    tensors[NORM][0] = float("nan")
    write_tensors(folder, tensors)


def index(more: Any, first: str = SHARD) -> Change:
    """Splits the weights into a shard, and an index with `more` entries. first: the name of the shard in it."""

    def change(folder: Path) -> None:
        names = list(read_tensors(folder))
        (folder / WEIGHTS).rename(folder / SHARD)
        text = more if isinstance(more, str) else json.dumps({"weight_map": {**dict.fromkeys(names, first), **more}})
        (folder / INDEX).write_text(text)

    return change


def pickled_shard(folder: Path) -> None:
    index({"x": "evil.bin"})(folder)
    torch.save({"x": Evil(folder.parent / "ran")}, folder / "evil.bin")


def pickled(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save({"x": Evil(folder.parent / "ran")}, folder / name)

    return change


def deep_pickle_index(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin.index.json").write_text("[" * 100_000)


def many_templates(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    for number in range(1000):
        (folder / f"additional_chat_templates/{number}.jinja").write_text("x")


def text(name: str, contents: str | bytes) -> Change:
    """Replaces a file."""
    return lambda folder: (folder / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def stated(name: str, **changes: Any) -> Change:
    """Changes a JSON file."""
    return lambda folder: edit_json(folder / name, **changes)


def raw(name: str, key: str, value: str) -> Change:
    """Adds a key with this JSON text as its value."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(re.sub(r"\}\s*$", f', "{key}": {value}}}', path.read_text()))

    return change


def with_code(name: str, **changes: Any) -> Change:
    """Changes a JSON file so that it names a module, evil.py, next to it."""

    def change(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\nclass Evil: pass\n")
        edit_json(folder / name, **changes)

    return change


def tokens(*path: Any, value: Any) -> Change:
    """Sets a value in tokenizer.json."""

    def change(folder: Path) -> None:
        whole = json.loads((folder / TOKENIZER).read_text())
        part = whole
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (folder / TOKENIZER).write_text(json.dumps(whole))

    return change


def many_added_tokens(folder: Path) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokens("added_tokens", value=[{"id": 100 + n, "content": f"<{n}>", **flags} for n in range(200_000)])(folder)


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
UNKNOWN_TOKEN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "zz", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
LINE = "one line, before any work"
ACCEPTED = "opens; nothing of it runs"

# kind -> attack -> model
HOSTILE: dict[str, dict[str, Hostile]] = {
    "safetensors": {
        "a header longer than the file": Hostile("full", weights({}, 10**6), "invalid header length"),
        "a header of 2^63 bytes": Hostile("full", weights({}, 2**63), "header too large"),
        "a header nested 100,000 levels deep": Hostile("full", weights(DEEP.encode()), "recursion limit"),
        "a header that is not UTF-8": Hostile("full", weights(b'{"\xff":1}'), "UTF-8"),
        "negative offsets": Hostile("full", tensor(data_offsets=[-4, 0]), "integer `-4`"),
        "overlapping tensors": Hostile("full", tensor(data_offsets=[0, 64]), "invalid offset"),
        "a shape whose product overflows": Hostile("full", tensor(shape=[2**40, 2**40]), "overflow"),
        "an unknown dtype": Hostile("full", tensor(dtype="X9"), "unknown variant `X9`"),
        "4-bit floats": Hostile("full", tensor(dtype="F4", shape=[128]), "16-bit or 32-bit"),
        "8-bit floats": Hostile("full", tensor(dtype="F8_E4M3", shape=[64]), "16-bit or 32-bit"),
        "NaN in a tensor": Hostile("full", nan, "NaN"),
        "a tensor name that forges a line": Hostile("full", tensor("a\nerror: forged\x1b[31m"), r"'a\\nerror: for"),
        "a tensor name of a million characters": Hostile("full", tensor("x" * 10**6), "1000000 characters"),
        "300,000 tensors without values": Hostile("full", added_tensors(300_000), "300000 tensors; at most 200000"),
        "a pickle named model.safetensors": Hostile(
            "full", lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(Evil(folder.parent / "ran"))), "header"
        ),
    },
    "index of shards": {
        "a shard in another folder": Hostile("full", index({}, f"../outside/{WEIGHTS}"), "not a .* file next to it"),
        "a shard at an absolute path": Hostile("full", index({}, f"/tmp/{WEIGHTS}"), "not a .* file next to it"),
        "a shard that is config.json": Hostile("full", index({"x": CONFIG}), "'config.json', not a"),
        "a shard that is a pickle": Hostile("full", pickled_shard, "'evil.bin', not a"),
        "a shard's name that forges a line": Hostile("full", index({"x": "\nerror: no.safetensors"}), r"'\\nerror"),
        "a shard's name of 5,000 characters": Hostile("full", index({"x": "a" * 5000}), "5000 characters"),
        "30,000 missing shards": Hostile(
            "full", index({f"z{n}": f"no{n}.safetensors" for n in range(30_000)}), "30001 files; at most"
        ),
        "a few missing shards": Hostile(
            "full", index({f"z{n}": f"no{n}.safetensors" for n in range(30)}), "and 25 more is in its index but not"
        ),
        "an index nested 100,000 levels deep": Hostile("full", index("[" * 100_000), "nested too deeply"),
        "an index without a map": Hostile("full", index('{"weight_map": []}'), "not a map"),
    },
    "pickle": {
        "code in pytorch_model.bin": Hostile("full", pickled("pytorch_model.bin"), "contains only pickles"),
        "code in pytorch_model.bin that is allowed": Hostile(
            "full", pickled("pytorch_model.bin"), "more than weights", pickles=True
        ),
        "an index of pickles nested 100,000 levels deep": Hostile(
            "full",
            deep_pickle_index,
            "nested too deeply",
            pickles=True,
        ),
        "training_args.bin with code": Hostile(
            "full", lambda folder: torch.save(Evil(folder.parent / "ran"), folder / "training_args.bin"), None, True
        ),
    },
    "config.json": {
        "nested 100,000 levels deep": Hostile("base", text(CONFIG, DEEP), "nested too deeply"),
        "nested 300 levels deep": Hostile("base", raw(CONFIG, "x", '{"a":' * 300 + "1" + "}" * 300), "nested more"),
        "a number of 400 digits": Hostile("base", raw(CONFIG, "vocab_size", "1" + "0" * 400), "401 digits"),
        "a number of 5000 digits": Hostile("base", raw(CONFIG, "vocab_size", "1" + "0" * 5000), "digits"),
        "10^9 layers": Hostile("base", stated(CONFIG, num_hidden_layers=10**9), "at most 200 is possible"),
        "10^9 layers of an expert": Hostile("full", stated(CONFIG, num_hidden_layers=10**9), "num_hidden_layers"),
        "10^9 labels": Hostile("base", stated(CONFIG, num_labels=10**9), "num_labels is 1000000000"),
        "-1 layers": Hostile("base", stated(CONFIG, num_hidden_layers=-1), "error|tensor|layers"),
        "10^18 as a size": Hostile("base", stated(CONFIG, hidden_size=10**18), "overflow"),
        "a text for a number": Hostile("base", stated(CONFIG, hidden_size="32"), "hidden_size"),
        "no attention heads": Hostile("base", stated(CONFIG, num_attention_heads=0), "cannot be opened"),
        "a text for a truth value": Hostile("base", stated(CONFIG, tie_word_embeddings="yes"), "tie_word_embeddings"),
        "architectures as an object": Hostile("base", stated(CONFIG, architectures={"a": 1}), "not a list of names"),
        "a list instead of an object": Hostile("base", text(CONFIG, "[1]"), "not a JSON object"),
        "null": Hostile("base", text(CONFIG, "null"), "not a JSON object"),
        "not UTF-8": Hostile("base", text(CONFIG, b"\xff\xfe{"), "cannot be opened"),
        "an unknown model type": Hostile("base", stated(CONFIG, model_type="nope"), "nope"),
        "a dtype that is a function of torch": Hostile("base", stated(CONFIG, dtype="load"), "cannot be opened"),
        "quantisation by another package": Hostile(
            "base", stated(CONFIG, quantization_config={"quant_method": "evil"}), "is quantised"
        ),
        "quantisation as a list": Hostile("base", stated(CONFIG, quantization_config=[1]), "cannot be opened"),
        "auto_map with code of a known model type": Hostile(
            "base", with_code(CONFIG, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}), None
        ),
        "auto_map with code of an unknown model type": Hostile(
            "base", with_code(CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.Evil"}), "requires Python code"
        ),
        "auto_map as a text": Hostile("base", with_code(CONFIG, auto_map="evil.Evil"), "cannot be opened"),
        "attention by code on the Hub": Hostile(
            "base", stated(CONFIG, attn_implementation="evil/kernels:attend"), "code on the Hub"
        ),
        "attention by code on the Hub, in a part": Hostile(
            "base", stated(CONFIG, attn_implementation={"text_config": "evil/kernels"}), "code on the Hub"
        ),
        "experts by code on the Hub": Hostile(
            "base", stated(CONFIG, _experts_implementation="evil/kernels"), "code on the Hub"
        ),
        "a path as the model's name": Hostile("base", stated(CONFIG, _name_or_path="../../etc/passwd"), None),
    },
    "adapter": {
        "nested 100,000 levels deep": Hostile("adapter", text(ADAPTER, DEEP), "nested too deeply"),
        "a list instead of an object": Hostile("adapter", text(ADAPTER, "[1]"), "not a JSON object"),
        "not UTF-8": Hostile("adapter", text(ADAPTER, b"\xff"), "cannot be opened"),
        "a base that is a path": Hostile("adapter", stated(ADAPTER, base_model_name_or_path="../../etc/passwd"), None),
        "a base at another address": Hostile(
            "adapter", stated(ADAPTER, base_model_name_or_path="file:///etc/passwd"), None
        ),
        "a base that is a number": Hostile("adapter", stated(ADAPTER, base_model_name_or_path=5), None),
        "a base of a million characters": Hostile(
            "adapter", stated(ADAPTER, base_model_name_or_path="x" * 10**6), None
        ),
        "an unknown method": Hostile("adapter", stated(ADAPTER, peft_type="evil"), "evil"),
        "a method as a list": Hostile("adapter", stated(ADAPTER, peft_type=["LORA"]), "cannot be opened"),
        "a prompt instead of weights": Hostile("adapter", stated(ADAPTER, peft_type="PROMPT_TUNING"), "PROMPT_TUNING"),
        "a rank of 10^9": Hostile("adapter", stated(ADAPTER, r=10**9), "rank 4; adapter_config.json states rank 1000"),
        "a rank as text": Hostile("adapter", stated(ADAPTER, r="x"), "adapter"),
        "alpha that is not a number": Hostile("adapter", raw(ADAPTER, "lora_alpha", "NaN"), "alpha"),
        "alpha that is infinite": Hostile("adapter", raw(ADAPTER, "lora_alpha", "1e999"), "alpha"),
        "alpha of 400 digits": Hostile("adapter", raw(ADAPTER, "lora_alpha", "1" + "0" * 400), "401 digits"),
        "a slow pattern for ranks": Hostile("adapter", stated(ADAPTER, rank_pattern={SLOW: 3}), "exceeded the limit"),
        "a slow pattern for alphas": Hostile("adapter", stated(ADAPTER, alpha_pattern={SLOW: 3}), "exceeded the limit"),
        "a pattern that is not valid": Hostile(
            "adapter", stated(ADAPTER, alpha_pattern={"(": 3}), "not a regular expression"
        ),
        "patterns as a list": Hostile("adapter", stated(ADAPTER, rank_pattern=[1]), "rank_pattern"),
        "code for its own classes": Hostile(
            "adapter", with_code(ADAPTER, auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}), None
        ),
        "a module for Megatron": Hostile("adapter", with_code(ADAPTER, megatron_core="evil"), None),
        "an initialisation that changes the base": Hostile(
            "adapter", stated(ADAPTER, init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "loftq"
        ),
    },
    "tokenizer": {
        "nested 100,000 levels deep": Hostile("base", text(TOKENIZER, DEEP), "nested too deeply"),
        "a null": Hostile("base", text(TOKENIZER, "null"), "no tokenizer"),
        "an empty vocabulary": Hostile("base", tokens("model", "vocab", value={}), "<unk>"),
        "200,000 added tokens": Hostile("base", many_added_tokens, "200000 added ones"),
        "a character map that aborts the process": Hostile(
            "base",
            tokens("normalizer", value={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            "cannot be loaded",
        ),
        "a character map that panics": Hostile(
            "base",
            tokens("normalizer", value={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "cannot be loaded",
        ),
        "a template with an unknown token": Hostile(
            "base", tokens("post_processor", value=UNKNOWN_TOKEN), "cannot be loaded"
        ),
        "a text that grows to terabytes": Hostile(
            "base", tokens("normalizer", value={"type": "Sequence", "normalizers": [GROWING] * 4}), "times longer"
        ),
        "an answer that grows to terabytes": Hostile(
            "base", tokens("decoder", value={"type": "Sequence", "decoders": [GROWING] * 4}), "times longer"
        ),
        "code for its class": Hostile(
            "base", with_code(SETTINGS, auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}), None
        ),
        "a model as its class": Hostile("base", stated(SETTINGS, tokenizer_class="AutoModel"), "cannot be loaded"),
        "end tokens as an object": Hostile("base", stated("generation_config.json", eos_token_id={"a": 1}), None),
        "a million end tokens": Hostile("base", stated("generation_config.json", eos_token_id=[*range(10**6)]), None),
        "a text as its longest input": Hostile("base", stated(SETTINGS, model_max_length="x"), "cannot be loaded"),
        "a file of the system as its vocabulary": Hostile(
            "base", stated(SETTINGS, tokenizer_file="/etc/passwd", vocab_file="/etc/passwd"), None
        ),
        "a chat template of 100 MB": Hostile("base", text("chat_template.jinja", b"x" * 10**8), "at most 1 MiB"),
        "1000 chat templates": Hostile(
            "base",
            many_templates,
            "more than 100 files",
        ),
    },
}


def table(columns: dict[str, Any], times: int = 1) -> Change:
    """A Parquet file with these columns, `times` times one after the other."""

    def write(path: Path) -> None:
        rows = pyarrow.table(columns)
        with pyarrow.parquet.ParquetWriter(path, rows.schema, compression="zstd") as file:
            for _ in range(times):
                file.write_table(rows)

    return write


def nested(levels: int) -> Change:
    kind: Any = pyarrow.int32()
    value: list[Any] = [1]
    for _ in range(levels):
        kind, value = pyarrow.list_(kind), [value]
    return table({"a": pyarrow.array(value, kind)})


def extension(path: Path) -> None:
    """A Parquet file with a type whose metadata is a pickle, as old versions of pyarrow unpickled it."""
    names = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(path.parent / "ran")),
    }
    schema = pyarrow.schema([pyarrow.field("a", pyarrow.int32(), metadata=names)])
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}, schema=schema), path)


def damaged(place: int, contents: bytes) -> Change:
    """A Parquet file with some bytes replaced, counted from its end."""

    def write(path: Path) -> None:
        table({"a": [1, 2, 3]})(path)
        whole = bytearray(path.read_bytes())
        whole[place : place + len(contents) or None] = contents
        path.write_bytes(whole)

    return write


def lines(contents: str | bytes) -> Change:
    return lambda path: path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())


# attack -> (ending of the file's name, what writes it, what the error contains: None if it is read)
ROWS: dict[str, tuple[str, Change, str | None]] = {
    "100 million rows in half a megabyte": ("parquet", table({"a": ["x"] * 10**6}, 60), "60,000,000 cells"),
    "lists in lists, 30 deep": ("parquet", nested(30), None),
    "a damaged footer": ("parquet", damaged(-60, b"\xff" * 40), "damaged"),
    "a footer of 2 GB": ("parquet", damaged(-8, b"\xff\xff\xff\x7f"), "damaged"),
    "a type with a pickle": ("parquet", extension, None),
    "a column of bytes": ("parquet", table({"a": [b"\xff\xfe"]}), None),
    "a time beyond the calendar": (
        "parquet",
        table({"a": pyarrow.array([2**62], pyarrow.timestamp("us"))}),
        "cannot represent",
    ),
    "a time zone that is a path": (
        "parquet",
        table({"a": pyarrow.array([0], pyarrow.timestamp("us", tz="../../evil"))}),
        "cannot represent",
    ),
    "a line of 10 MB": ("jsonl", lines(json.dumps({"a": "x" * 10**7})), None),
    "a line nested 100,000 levels deep": ("jsonl", lines('{"a":' + "[" * 10**5), "nested too deeply|not JSON"),
    "a number of 5000 digits": ("jsonl", lines('{"a":' + "1" * 5000 + "}"), "digits"),
    "30,000 objects that never end": ("jsonl", lines('{"a":\n' * 30_000), "not JSON|nested"),
    "a list nested 100,000 levels deep": ("json", lines("[" * 10**5), "nested too deeply|not JSON"),
    "a NUL": ("csv", lines("a,b\n1,\0\n"), "NUL"),
    "a field of 10 MB": ("csv", lines('a,b\n1,"' + "x" * 10**7 + '"\n'), None),
    "a quote that never ends": ("csv", lines('a,b\n1,"' + "x\n" * 10**6), "quote"),
    "100,000 columns of one name": ("csv", lines("a," * 10**5 + "\n1\n"), "occurs twice"),
    "a header of 10 MB": ("csv", lines("x" * 10**7 + ";y\n1\n"), "semicolons"),
    "a compressed file": ("jsonl.gz", lines(b"\x1f\x8b\x08"), "compressed; unpack"),
    "a compressed file under a plain name": ("jsonl", lines(b"\x1f\x8b\x08\0\0"), "not UTF-8"),
    "a script": ("py", lines("open('ran', 'w')"), "unknown format"),
    "a pickle": ("pkl", lines(pickle.dumps(1)), "unknown format"),
}

LARGE_ROWS: dict[str, tuple[str, Change, str | None]] = {
    "10 GB of text in a small file": ("parquet", table({"a": ["x" * 10**4] * 10**5}, 10), "MiB; at most"),
    "a value of 2 GB": ("parquet", table({"a": ["x" * 10**8]}, 25), "MiB; at most"),
}

MODEL_ATTACKS = [
    Attack(f"hostile model: {kind}", f"{kind}: {attack}", LINE if model.says else ACCEPTED, model)
    for kind, attacks in HOSTILE.items()
    for attack, model in attacks.items()
]
ROW_ATTACKS = [
    Attack("hostile rows", attack, LINE if given[2] else "is read; nothing of it runs", given)
    for attack, given in ROWS.items()
]
LARGE_ROW_ATTACKS = [Attack("hostile rows", attack, LINE, given) for attack, given in LARGE_ROWS.items()]
ELSEWHERE = "refused: its README.md names .*, which is not one of its files"

# the `data_files` of a dataset's README.md -> what the error contains: None if they are read. SECRET: a local file
DATASETS: dict[str, tuple[str, str | None]] = {
    "its own file": ("rows/*.jsonl", None),
    "a file of this machine": ("SECRET", ELSEWHERE),
    "a file of this machine, as an address": ("file://SECRET", ELSEWHERE),
    "a file of this machine, by its place": ("../../../../../../../SECRET", ELSEWHERE),
    "a file of another dataset": ("hf://datasets/ann/private/rows.jsonl", ELSEWHERE),
    "a file of a dataset whose name begins with its own": ("hf://datasets/mallory/rows5-more/a.jsonl", ELSEWHERE),
}
DATASET_ATTACKS = [
    Attack("hostile dataset", f"a README.md that names {attack}", LINE if given[1] else "is read", given)
    for attack, given in DATASETS.items()
]
ATTACKS = [*MODEL_ATTACKS, *ROW_ATTACKS, *LARGE_ROW_ATTACKS, *DATASET_ATTACKS]


@pytest.mark.parametrize("attack", cases(MODEL_ATTACKS))
def test_a_hostile_model_is_refused_or_harmless(attack: Attack, models: Models) -> None:
    given: Hostile = attack.given
    folder = models.ran.parent / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(getattr(models, given.target), folder)
    if given.target == "base" and not attack.kind.endswith("tokenizer"):
        for name in (TOKENIZER, SETTINGS):
            (folder / name).unlink()
    given.change(folder)
    changed = replace(models, **{given.target: folder})
    target = "tokenizer" if attack.kind.endswith("tokenizer") else given.target
    found = outcome_of(partial(opened, changed, target, ModelsConfig(pickles=given.pickles)), 8 * GIB, 60)
    assert not models.ran.exists(), "its code ran"
    if given.says is None:
        assert found is None
        return
    assert found is not None
    assert found[0] == "UserError", found[1]
    assert re.search(given.says, found[1])
    assert all(len(line) < 4000 and line.isprintable() for line in found[1].splitlines())


@pytest.mark.parametrize("attack", cases(ROW_ATTACKS))
def test_a_hostile_data_file_is_refused_or_harmless(attack: Attack, tmp_path: Path) -> None:
    ending, write, says = attack.given
    path = tmp_path / f"rows.{ending}"
    write(path)
    found = outcome_of(lambda: read_rows(RowsConfig(path=str(path))), 3 * GIB, 60)
    assert not (tmp_path / "ran").exists(), "its code ran"
    if says is None:
        assert found is None
        return
    assert found is not None
    assert found[0] == "UserError", found[1]
    assert re.search(says, found[1])
    assert len(found[1]) < 4000
    assert "\n" not in found[1]


@pytest.mark.slow
@pytest.mark.parametrize("attack", cases(LARGE_ROW_ATTACKS))
def test_a_data_file_that_fills_the_memory_is_refused(attack: Attack, tmp_path: Path) -> None:
    test_a_hostile_data_file_is_refused_or_harmless(attack, tmp_path)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    home = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        sign_in(patch, home, "hf_ann")
        with LocalHub([User("ann", "hf_ann"), User("mallory", "hf_mallory")], BOUND) as server:
            server.put("ann/private", {"rows.jsonl": b'{"a": "secret"}\n'}, "dataset")
            yield server
    huggingface_hub.close_session()


@pytest.mark.parametrize("attack", cases(DATASET_ATTACKS))
def test_a_dataset_on_the_hub_reads_its_own_files_only(attack: Attack, hub: LocalHub, tmp_path: Path) -> None:
    files, says = attack.given
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"a": "secret"}\n')
    stated = files.replace("SECRET", str(secret))
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {stated}\n---\n"
    repo = f"mallory/rows{DATASET_ATTACKS.index(attack)}"
    hub.put(repo, {"README.md": readme.encode(), "rows/a.jsonl": b'{"a": "own"}\n'}, "dataset")
    source = RowsConfig(dataset=repo, split="train")
    if says is None:
        assert read_rows(source) == [{"a": "own"}]
        return
    with pytest.raises(UserError, match=says) as caught:
        read_rows(source)
    assert "\n" not in str(caught.value)
