"""Publish models of a run: they are built and uploaded one by one, and committed to their repository together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.constants import REPOCARD_NAME

from cycleqd_merge.config.references import without_paths
from cycleqd_merge.evolution.candidate import fits_of
from cycleqd_merge.files import scratch_folder
from cycleqd_merge.hub.card import FIGURE, model_card
from cycleqd_merge.hub.draft import Draft, Pushed
from cycleqd_merge.hub.facts import model_facts
from cycleqd_merge.hub.portable import CHAT_TEMPLATE
from cycleqd_merge.hub.publication import Publication
from cycleqd_merge.hub.scan import require_no_credentials
from cycleqd_merge.merging.end_tokens import listed_ids
from cycleqd_merge.merging.fit_files import MODEL_FITS, file_of
from cycleqd_merge.merging.model_files import GENERATION, TOKENIZER
from cycleqd_merge.merging.rebuild_command import CONFIGURATION, without_variable_command
from cycleqd_merge.merging.sizes import model_bytes
from cycleqd_merge.outputs.export import export, export_adapter, model_record
from cycleqd_merge.report.figures import archives_figure, png
from cycleqd_merge.run.elites import NamedModel
from cycleqd_merge.run.opening import reopen
from cycleqd_merge.strict_json import loads

GENOME = "genome.json"
_TEXT_FILES = (".json", ".yml", ".md", ".jinja")
"""Text files of an exported model, which may contain local paths."""
_LONGEST_TEXT = 2**24  # bytes; longer files contain no paths
_WEIGHTS = re.compile(r"(adapter_)?model.*\.safetensors(\.index\.json)?|adapter_config\.json")
Files = dict[str, bytes | Path]


def file_name(label: str) -> str:
    """A model's name as part of a path or repository id: `sql:3,12` becomes sql-3-12, `#12` evaluation-12."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label.replace("#", "evaluation-"))


def push_models(publication: Publication, repo: str, placed: Mapping[str, NamedModel]) -> Pushed:
    """Publish all models of a repository in one commit; models that are published already are not built again.

    placed: models by their folders in the repository; `""` is its root.
    """
    draft, kept = publication.draft("model", repo), set[str]()
    draft.claim(lambda: _is_of_this_run(draft, publication))
    for prefix, model in placed.items():
        files: Files = {}
        if _is_published(draft, prefix, publication, model):
            kept |= {path for path in draft.published if _model_folder(path) == prefix}
        elif publication.options.dry:
            name = "adapter_model.safetensors" if publication.hub.adapters else "model.safetensors"
            draft.expect(prefix + name, _weights(publication))
        else:
            files = _add_model(draft, prefix, publication, model)
            kept |= files.keys()
        card = _card(publication, repo, prefix, placed, draft, files)
        page = {f"{prefix}{FIGURE}": _figure(publication, model), f"{prefix}{REPOCARD_NAME}": card}
        require_no_credentials(page)
        draft.add(page)
        kept |= page.keys()
    draft.remove(path for path in draft.published if path not in kept and _is_part_of_a_model(path, draft))
    return publication.commit(draft)


def _is_of_this_run(draft: Draft, publication: Publication) -> bool:
    """Whether the repository has a model that was merged from this run's parents."""
    genomes = (draft.read(path) for path in draft.published if path.rpartition("/")[2] == GENOME)
    start = publication.run.start
    try:
        stated = [loads(each) for each in genomes if each is not None]
        parents = [(each["base"]["sha256"], {n: e["sha256"] for n, e in each["experts"].items()}) for each in stated]
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return (start["base"], start["experts"]) in parents


def _is_published(draft: Draft, prefix: str, publication: Publication, model: NamedModel) -> bool:
    """Whether the repository has exactly this model: a model's record and its weights are committed together."""
    record = draft.read(f"{prefix}{GENOME}")
    if record is None or (f"{prefix}adapter_config.json" in draft.published) != publication.hub.adapters:
        return False
    try:
        stated = loads(record)
    except ValueError:
        return False
    if not isinstance(stated, dict):
        return False
    run = publication.run
    wanted = json.loads(without_paths(json.dumps(model_record(run, model)), run.recipe))
    fits = [f"{prefix}{MODEL_FITS}/{file_of(digest)}" for digest in fits_of(model.candidate)]
    same = all(stated.get(key) == value for key, value in wanted.items() if key != "made_by")
    return same and draft.published.keys() >= set(fits)


def _add_model(draft: Draft, prefix: str, publication: Publication, model: NamedModel) -> Files:
    """Build a model, upload it, and delete it from the disk; returns its files by their paths in the repository."""
    run, files = publication.run, Files()
    write = export_adapter if publication.hub.adapters else export
    with scratch_folder(publication.folder / "push") as temporary:
        out = temporary / "model"
        write(run, model.label, out)
        for path in sorted(each for each in out.rglob("*") if each.is_file()):
            name = f"{prefix}{path.relative_to(out).as_posix()}"
            files[name] = path
            if path.suffix in _TEXT_FILES and path.stat().st_size < _LONGEST_TEXT:
                text = without_paths(path.read_text(encoding="utf-8"), run.recipe)
                files[name] = (without_variable_command(text) if path.name == CONFIGURATION else text).encode()
        require_no_credentials(files)
        draft.add(files)
    return files


def _card(
    publication: Publication, repo: str, prefix: str, placed: Mapping[str, NamedModel], draft: Draft, files: Files
) -> bytes:
    """The card of the model in folder `prefix`; that of the root lists the others. files: those just added."""
    model = placed[prefix]

    def read(name: str) -> bytes | None:
        found = files.get(f"{prefix}{name}") or draft.read(f"{prefix}{name}")
        return found if isinstance(found, bytes) else None

    configuration, tokenizer, generation = map(read, (CONFIGURATION, TOKENIZER, GENERATION))
    has_template = f"{prefix}{CHAT_TEMPLATE}" in (files or draft.published)
    others = {folder.rstrip("/"): other.label for folder, other in placed.items() if folder}
    facts = model_facts(
        publication.facts_of(repo),
        publication.run,
        model.label,
        model.candidate,
        model.number,
        configuration=None if configuration is None else configuration.decode(),
        chat=has_template or bool(json.loads(tokenizer or b"{}").get("chat_template")),
        adapter=publication.hub.adapters,
        end_tokens=listed_ids(json.loads(generation or b"{}").get("eos_token_id")),
        others={} if prefix else others,
        subfolder=prefix.rstrip("/"),
    )
    return str(model_card(facts).content).encode()


def _figure(publication: Publication, model: NamedModel) -> bytes:
    """The archives with the model marked."""
    marked = {} if model.number is None else {model.number: model.label}
    return png(archives_figure(publication.run.archives, publication.run.objectives, marked))


def _is_part_of_a_model(path: str, draft: Draft) -> bool:
    """Whether a file of the repository is part of a model that was pushed before."""
    folder = _model_folder(path)
    if folder:
        return f"{folder}{GENOME}" in draft.published
    return path.startswith(f"{MODEL_FITS}/") or _WEIGHTS.fullmatch(path) is not None


def _model_folder(path: str) -> str:
    """The folder of the repository whose model a file would belong to; a model's fits are in a folder inside it."""
    folder = path.rpartition("/")[0] + "/" if "/" in path else ""
    return folder.removesuffix(f"{MODEL_FITS}/")


def _weights(publication: Publication) -> int:
    """Approximate size in bytes of a model's weights, for a dry run."""
    family = reopen(publication.run).family
    if not publication.hub.adapters:
        return model_bytes(family)
    return sum(path.stat().st_size for expert in family.experts for path in expert.weights.files)
