"""Publishing models of a run: built one after another, uploaded, and committed to their repository together."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cycleqd_merge.config.references import without_paths
from cycleqd_merge.hub.card import FIGURE, model_card
from cycleqd_merge.hub.draft import Draft, Pushed
from cycleqd_merge.hub.facts import model_facts
from cycleqd_merge.hub.portable import CHAT_TEMPLATE
from cycleqd_merge.hub.publication import CARD, Publication, require_no_token
from cycleqd_merge.merging.sizes import model_bytes
from cycleqd_merge.outputs.export import export, export_adapter, model_record
from cycleqd_merge.report.figures import archives_figure, png
from cycleqd_merge.run.elites import NamedModel
from cycleqd_merge.run.opening import reopen

GENOME, CONFIGURATION = "genome.json", "mergekit_config.yml"
_SHOWN = (".json", ".yml", ".md", ".jinja")
"""Text files of an exported model, which may name local paths."""
_MOST_SHOWN = 2**24  # bytes; no text file that names paths is so long
_WEIGHTS = re.compile(r"(adapter_)?model.*\.safetensors(\.index\.json)?|adapter_config\.json")
Files = dict[str, bytes | Path]


def file_name(label: str) -> str:
    """A model's name as part of a path or repository: `sql:3,12` is sql-3-12, `#12` evaluation-12."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label.replace("#", "evaluation-"))


def push_models(publication: Publication, repo: str, placed: Mapping[str, NamedModel]) -> Pushed:
    """One commit with all models of a repository; those that stand there already are not built again.

    placed: by folder in the repository; `""` is its root.
    """
    draft, kept = publication.draft("model", repo), set[str]()
    draft.claim(lambda: _is_of_this_run(draft, publication))
    for prefix, chosen in placed.items():
        files: Files = {}
        if _stands(draft, prefix, publication, chosen):
            kept |= {path for path in draft.there if _folder(path) == prefix}
        elif publication.options.dry:
            name = "adapter_model.safetensors" if publication.hub.adapters else "model.safetensors"
            draft.expect(prefix + name, _weights(publication))
        else:
            files = _add_model(draft, prefix, publication, chosen)
            kept |= files.keys()
        card = _card(publication, repo, prefix, placed, draft, files)
        shown = {f"{prefix}{FIGURE}": _figure(publication, chosen), f"{prefix}{CARD}": card}
        require_no_token(shown)
        draft.add(shown)
        kept |= shown.keys()
    draft.remove(path for path in draft.there if path not in kept and _is_ours(path, draft))
    return publication.commit(draft)


def _is_of_this_run(draft: Draft, publication: Publication) -> bool:
    """Whether a model stands in the repository that is made of the run's parents."""
    genomes = (draft.read(path) for path in draft.there if path.rpartition("/")[2] == GENOME)
    start = publication.run.start
    try:
        stated = [json.loads(each) for each in genomes if each is not None]
        parents = [(each["base"]["sha256"], {n: e["sha256"] for n, e in each["experts"].items()}) for each in stated]
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return (start["base"], start["experts"]) in parents


def _stands(draft: Draft, prefix: str, publication: Publication, chosen: NamedModel) -> bool:
    """Whether the repository holds this very model there: a commit brings a model's record and its weights together."""
    there = draft.read(f"{prefix}{GENOME}")
    if there is None or (f"{prefix}adapter_config.json" in draft.there) != publication.hub.adapters:
        return False
    try:
        stated = json.loads(there)
    except ValueError:
        return False
    run = publication.run
    wanted = json.loads(without_paths(json.dumps(model_record(run, chosen)), run.recipe))
    return all(stated.get(key) == value for key, value in wanted.items() if key != "made_by")


def _add_model(draft: Draft, prefix: str, publication: Publication, chosen: NamedModel) -> Files:
    """Build a model, upload it, and remove it from this disk; returns its files by their paths in the repository."""
    run, files = publication.run, Files()
    write = export_adapter if publication.hub.adapters else export
    with tempfile.TemporaryDirectory(prefix=".push-", dir=publication.folder) as beside:
        out = Path(beside) / "model"
        write(run, chosen.label, out)
        for path in sorted(out.iterdir()):
            files[f"{prefix}{path.name}"] = path
            if path.suffix in _SHOWN and path.stat().st_size < _MOST_SHOWN:
                text = without_paths(path.read_text(encoding="utf-8"), run.recipe)
                files[f"{prefix}{path.name}"] = text.encode()
        require_no_token(files)
        draft.add(files)
    return files


def _card(
    publication: Publication, repo: str, prefix: str, placed: Mapping[str, NamedModel], draft: Draft, files: Files
) -> bytes:
    """The card of the model in folder `prefix`; the root's tells of the others. files: what was just added of it."""
    chosen, path = placed[prefix], f"{prefix}{CONFIGURATION}"
    configuration = files.get(path) or draft.read(path)
    others = {folder.rstrip("/"): other.label for folder, other in placed.items() if folder}
    facts = model_facts(
        publication.facts_of(repo),
        publication.run,
        chosen.label,
        chosen.candidate,
        chosen.number,
        configuration=configuration.decode() if isinstance(configuration, bytes) else None,
        chat=f"{prefix}{CHAT_TEMPLATE}" in (files or draft.there),
        adapter=publication.hub.adapters,
        others={} if prefix else others,
        subfolder=prefix.rstrip("/"),
    )
    return str(model_card(facts).content).encode()


def _figure(publication: Publication, chosen: NamedModel) -> bytes:
    """The archives with the model marked."""
    marked = {} if chosen.number is None else {chosen.number: chosen.label}
    return png(archives_figure(publication.run.archives, publication.run.objectives, marked))


def _is_ours(path: str, draft: Draft) -> bool:
    """Whether a file of the repository is part of a model that was pushed before."""
    folder = _folder(path)
    return f"{folder}{GENOME}" in draft.there if folder else _WEIGHTS.fullmatch(path) is not None


def _folder(path: str) -> str:
    return path.rpartition("/")[0] + "/" if "/" in path else ""


def _weights(publication: Publication) -> int:
    """Bytes of a model's weights, about, for what is not built."""
    family = reopen(publication.run).family
    if not publication.hub.adapters:
        return model_bytes(family)
    return sum(path.stat().st_size for expert in family.experts for path in expert.weights.files)
