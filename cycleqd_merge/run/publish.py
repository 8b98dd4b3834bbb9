"""Publishing a run: its archive as a dataset repository, its models as model repositories."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from pydantic import TypeAdapter

from cycleqd_merge.errors import HubFailed, UserError
from cycleqd_merge.hub.access import repositories as named_repositories
from cycleqd_merge.hub.access import require_write
from cycleqd_merge.hub.archive import MANAGED, archive_files, told
from cycleqd_merge.hub.card import FIGURE, archive_card, model_card
from cycleqd_merge.hub.draft import Draft, Pushed, Target
from cycleqd_merge.hub.facts import CardFacts, card_facts, model_facts
from cycleqd_merge.hub.portable import CHAT_TEMPLATE, portable, without_paths
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.journal.log import read_events
from cycleqd_merge.journal.replay import Replay, open_run, replay_events
from cycleqd_merge.recipe.loading import parse
from cycleqd_merge.recipe.schema import Hub, hub_id
from cycleqd_merge.report.figures import archives_figure, png
from cycleqd_merge.report.page import render_page
from cycleqd_merge.run.disk import model_bytes
from cycleqd_merge.run.elites import Chosen, choose, expand
from cycleqd_merge.run.export import export, export_adapter, model_record
from cycleqd_merge.run.session import reopen

GENOME, CONFIGURATION, CARD = "genome.json", "mergekit_config.yml", "README.md"
_SHOWN = (".json", ".yml", ".md", ".jinja")
"""Text files of an exported model, which may name local paths."""
_WEIGHTS = re.compile(r"(adapter_)?model.*\.safetensors(\.index\.json)?")
Report = Callable[[Pushed], None]


@dataclass(frozen=True)
class Options:
    """How one push is made, beside what the recipe's `hub` says: see `Target`. dry: write nothing, tell what would be.

    archive_only: push neither models nor page.
    """

    archive_only: bool = False
    dry: bool = False
    create_pr: bool = False
    revision: str | None = None
    onto: str | None = None


def hub_settings(folder: Path, stated: Mapping[str, Any]) -> Hub:
    """What the run's recipe says of publishing, with `stated` keys before it.

    Raises:
        UserError: there is no such run, or no repository is named.
    """
    hub = open_run(folder).recipe.hub
    keys = {**({} if hub is None else hub.model_dump(exclude_unset=True)), **stated}
    if "repo" not in keys:
        raise UserError(f"{folder}: its recipe has no `hub`; name a repository with --repo user/name")
    return parse(TypeAdapter(Hub), keys, "push")


def publish(folder: Path, hub: Hub, options: Options, report: Report) -> list[Pushed]:
    """Push the run in `folder` as `hub` says; `report` is told of each repository.

    Raises:
        UserError: there is no such run or model, nothing may be written there, or a token stands in what is published.
        HubFailed: the Hub refused or failed; what was pushed before stands, and pushing again completes the rest.
    """
    events = read_events(folder)
    replay = replay_events(events, str(folder))
    if not replay.archives:
        raise UserError(f"{folder}: its experts are not all scored yet; there is nothing to push")
    if options.archive_only:
        hub = hub.model_copy(update={"root": None, "elites": [], "space": False})
    root = None if hub.root is None else choose(replay, hub.root)
    others = [choose(replay, name) for name in expand(replay, hub.elites)]
    others = [other for other in others if root is None or other.label != root.label]
    repositories = _model_repositories(hub, root, others)
    if repositories and hub.adapters and hub_id(replay.recipe.base.partition("@")[0]) is None:
        raise UserError("hub.adapters: the base is a local model; an adapter needs one that others can load")
    if not options.dry:
        beside = [each for each in named_repositories(hub) if each[0] != "model"]
        require_write(*beside, *(("model", repo) for repo in repositories))
    pushed = []
    facts = card_facts(replay, hub.repo, hub.archive_repo if hub.archive else None, hub.license)
    if hub.archive:
        pushed.append(_push_archive(replay, events, folder, hub, options, facts))
        report(pushed[-1])
    for repo, placed in repositories.items():
        target, about = _target("model", repo, hub, options), dataclasses.replace(facts, repo=repo)
        pushed.append(_push_models(replay, placed, folder, target, hub, options.dry, about))
        report(pushed[-1])
    if hub.space:
        pushed.append(_push_page(replay, events, folder, hub, options))
        report(pushed[-1])
    if len(repositories) > 1 and not options.dry and not options.create_pr:
        _collect(hub, list(repositories))
    return pushed


def _model_repositories(hub: Hub, root: Chosen | None, others: Sequence[Chosen]) -> dict[str, dict[str, Chosen]]:
    """The models of each model repository, by their folder in it."""
    found: dict[str, dict[str, Chosen]] = {} if root is None else {hub.repo: {"": root}}
    for other in others:
        if hub.layout == "subfolders":
            found.setdefault(hub.repo, {})[f"{file_name(other.label)}/"] = other
        else:
            found[f"{hub.repo}-{file_name(other.label)}"] = {"": other}
    return found


def file_name(label: str) -> str:
    """A model's name as part of a path or repository: `sql:3,12` is sql-3-12, `#12` evaluation-12."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label.replace("#", "evaluation-"))


def _target(kind: Any, repo: str, hub: Hub, options: Options) -> Target:
    return Target(kind, repo, hub.private, options.revision, options.create_pr, options.onto)


def _push_archive(
    replay: Replay, events: Sequence[Any], folder: Path, hub: Hub, options: Options, facts: CardFacts
) -> Pushed:
    target = _target("dataset", hub.archive_repo, hub, options)
    files = archive_files(replay, events, portable(replay.recipe, replay.folder), hub.rows)
    about = dataclasses.replace(facts, repo=hub.archive_repo)
    files[CARD] = archive_card(about).content.encode()
    _require_no_token(files)
    draft = Draft(target, folder, options.dry)
    draft.add(files)
    draft.remove(path for path in draft.there if path.startswith(MANAGED) and path not in files)
    return draft.commit(_title(replay), _tag(replay))


def _push_page(replay: Replay, events: Sequence[Any], folder: Path, hub: Hub, options: Options) -> Pushed:
    shown = replay_events(told(events, portable(replay.recipe, replay.folder)))
    name = hub.repo.rpartition("/")[2]
    front = f"---\ntitle: {name}\nsdk: static\npinned: false\ntags: [mergekit, merge, cycleqd]\n---\n"
    files: dict[str, bytes | Path] = {
        "index.html": render_page(shown, name).encode("utf-8", "backslashreplace"),
        CARD: f"{front}\nThe page of a CycleQD run.\n".encode(),
    }
    _require_no_token(files)
    draft = Draft(_target("space", hub.repo, hub, options), folder, options.dry)
    draft.add(files)
    return draft.commit(_title(replay), _tag(replay))


def _push_models(
    replay: Replay, placed: Mapping[str, Chosen], folder: Path, target: Target, hub: Hub, dry: bool, facts: CardFacts
) -> Pushed:
    """One commit with all models of a repository; those whose genome stands there already are not built again."""
    draft = Draft(target, folder, dry)
    kept: set[str] = set()
    for prefix, chosen in placed.items():
        files: dict[str, bytes | Path] = {}
        if _stands(draft, prefix, replay, chosen, hub):
            kept |= {path for path in draft.there if _folder(path) == prefix}
        elif dry:
            draft.expect(f"{prefix}{'adapter_' if hub.adapters else ''}model.safetensors", _weights(replay, hub))
        else:
            files = _add_model(draft, prefix, replay, chosen, folder, hub)
            kept |= files.keys()
        shown: dict[str, bytes | Path] = {f"{prefix}{FIGURE}": png(_figure(replay, chosen))}
        if prefix == "":
            configuration = files.get(CONFIGURATION) or draft.read(CONFIGURATION)
            about = model_facts(
                facts,
                replay,
                chosen.label,
                chosen.genome,
                chosen.number,
                configuration=configuration.decode() if isinstance(configuration, bytes) else None,
                chat=CHAT_TEMPLATE in (files or draft.there),
                adapter=hub.adapters,
                others={inner.rstrip("/"): other.label for inner, other in placed.items() if inner},
            )
            shown[CARD] = model_card(about).content.encode()
        _require_no_token(shown)
        draft.add(shown)
        kept |= shown.keys()
    draft.remove(path for path in draft.there if path not in kept and _is_ours(path, draft))
    return draft.commit(_title(replay), _tag(replay))


def _stands(draft: Draft, prefix: str, replay: Replay, chosen: Chosen, hub: Hub) -> bool:
    """Whether the repository holds this very model there: a commit brings a genome and its weights together."""
    there = draft.read(f"{prefix}{GENOME}")
    if there is None or (f"{prefix}adapter_config.json" in draft.there) != hub.adapters:
        return False
    try:
        stated = json.loads(there)
    except ValueError:
        return False
    wanted = json.loads(without_paths(json.dumps(model_record(replay, chosen)), replay.recipe))
    return all(stated.get(key) == value for key, value in wanted.items() if key != "made_by")


def _add_model(
    draft: Draft, prefix: str, replay: Replay, chosen: Chosen, folder: Path, hub: Hub
) -> dict[str, bytes | Path]:
    """Build a model, upload it, and remove it from this disk; returns its files by their paths in the repository."""
    with tempfile.TemporaryDirectory(prefix=".push-", dir=folder) as beside:
        out = Path(beside) / "model"
        (export_adapter if hub.adapters else export)(replay, chosen.label, out)
        files: dict[str, bytes | Path] = {}
        for path in sorted(out.iterdir()):
            shown = path.suffix in _SHOWN and path.stat().st_size < 2**24
            text = without_paths(path.read_text(encoding="utf-8"), replay.recipe).encode() if shown else None
            files[f"{prefix}{path.name}"] = path if text is None else text
        _require_no_token(files)
        draft.add(files)
        return files


def _is_ours(path: str, draft: Draft) -> bool:
    """Whether a file of the repository is part of a model that was pushed before."""
    folder = _folder(path)
    if folder:
        return f"{folder}{GENOME}" in draft.there
    return _WEIGHTS.fullmatch(path) is not None or path == "adapter_config.json"


def _folder(path: str) -> str:
    return path.rpartition("/")[0] + "/" if "/" in path else ""


def _weights(replay: Replay, hub: Hub) -> int:
    """Bytes of a model's weights, about, for what is not built."""
    family = reopen(replay).family
    if not hub.adapters:
        return model_bytes(family)
    return sum(path.stat().st_size for expert in family.experts for path in expert.weights.files)


def _figure(replay: Replay, chosen: Chosen) -> Any:
    marked = {} if chosen.number is None else {chosen.number: chosen.label}
    return archives_figure(replay.archives, replay.objectives, marked)


def _title(replay: Replay) -> str:
    return f"Generation {replay.generation}"


def _tag(replay: Replay) -> str:
    return f"gen-{replay.generation}"


def _collect(hub: Hub, repositories: Sequence[str]) -> None:
    """Gather the models in a collection."""
    api, (space, _, name) = huggingface_hub.HfApi(), hub.repo.partition("/")
    with hub_errors(f"collection {name}", HubFailed):
        slug = api.create_collection(name, namespace=space, private=hub.private, exists_ok=True).slug
        for repo in repositories:
            api.add_collection_item(slug, repo, "model", exists_ok=True)
        if hub.archive:
            api.add_collection_item(slug, hub.archive_repo, "dataset", exists_ok=True)


def _require_no_token(files: Mapping[str, bytes | Path]) -> None:
    """Refuse to publish this machine's token, which a recipe may have taken from the environment.

    Raises:
        UserError: it stands in a file.
    """
    token = (huggingface_hub.get_token() or "").encode()
    for path, content in files.items():
        if token and isinstance(content, bytes) and token in content:
            raise UserError(f"hub: {path} holds your token and was not pushed; take it out of the recipe")
