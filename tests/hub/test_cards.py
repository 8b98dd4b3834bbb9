"""Cards: front matter for parsers, numbers from the journal, and untrusted texts that stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from cycleqd_merge.errors import HubFailed, UserError
from cycleqd_merge.hub.card import archive_card, model_card
from cycleqd_merge.hub.facts import ModelFacts, card_facts, model_facts
from cycleqd_merge.hub.markdown import cell, code, fenced
from cycleqd_merge.hub.parents import parents_of
from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.merging.model_cards import License, derived_license
from cycleqd_merge.merging.rebuild_command import NO_COMMAND
from cycleqd_merge.report.optimism import chosen_mean
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import Run, open_run
from tests.hub.server import LocalHub
from tests.report.runs import HELDOUT, NAMES, ROWS, make_run, measure_heldout

REPO = "user/merged"
CONFIGURATION = "# cycleqd-merge merge mergekit_config.yml OUT\nmerge_method: cycleqd\n"
HOSTILE = "a|b</details><script>alert(1)</script> ```\n---\n``` `c` [x](javascript:y)"


def front_matter(card: ModelCard | DatasetCard) -> dict[str, Any]:
    """The front matter as another parser reads it."""
    found = re.match(r"---\n(.*?)\n---\n", str(card), re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = yaml.safe_load(found[1])
    return parsed


def tables(card: ModelCard | DatasetCard) -> list[dict[str, list[str]]]:
    """The Markdown tables of a card, each as rows by their first cell; columns by the heading's cells under ``."""
    found: list[dict[str, list[str]]] = []
    before = ""
    for line in card.text.splitlines():
        if line.startswith("|"):
            cells = [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not before.startswith("|"):
                found.append({"": cells})
            elif not set(line) <= set("|-:"):
                found[-1][cells[0].strip("*")] = cells[1:]
        before = line
    return found


def facts_of(state: Run, name: str = "best-mean", **options: Any) -> ModelFacts:
    chosen = choose(state, name)
    run = card_facts(state, REPO, f"{REPO}-archive")
    return model_facts(run, state, chosen.label, chosen.genome, chosen.number, **options)


@pytest.fixture
def measured(tmp_path: Path) -> Run:
    """A run with held-out scores."""
    make_run(tmp_path)
    return measure_heldout(tmp_path, HELDOUT)


def test_front_matter_of_a_model_is_what_the_hub_reads(measured: Run, tmp_path: Path) -> None:
    card = model_card(facts_of(measured, configuration=CONFIGURATION))
    front = front_matter(card)
    assert front["base_model"] == ["org/base", "org/sql", "org/bash", "org/math"]
    assert (front["base_model_relation"], front["library_name"]) == ("merge", "transformers")
    assert (front["pipeline_tag"], front["tags"]) == ("text-generation", ["mergekit", "merge", "cycleqd"])
    assert "license" not in front
    results = ModelCard(str(card)).data.eval_results
    assert results is not None
    found = {(result.dataset_type, result.dataset_split): result for result in results}
    number = measured.best_mean()
    searched = of_kind(read_events(tmp_path), "result")[number]["scores"]
    assert list(found) == [
        (name, split) for split in ("heldout", "search") for name in ("sql", "org/bash-rows", "org/math-rows")
    ]
    for (task, split), result in found.items():
        place = ["sql", "org/bash-rows", "org/math-rows"].index(task)
        wanted = 0.875 if split == "heldout" else searched[place]
        assert result.metric_value == pytest.approx(wanted, abs=1e-6)
        assert ("never seen" in str(result.metric_name)) == (split == "heldout")
        assert ("maximised" in str(result.metric_name)) == (split == "search")
        assert result.metric_args is not None
        assert result.metric_args["samples"] == (4 if split == "heldout" else ROWS["search"])
    assert found["sql", "heldout"].metric_args == {"samples": 4, "standard_error": 0.125}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tables_of_a_card_show_the_scores_of_the_journal(tmp_path: Path, count: int) -> None:
    make_run(tmp_path, count)
    state = measure_heldout(tmp_path, HELDOUT)
    names, results = list(NAMES[:count]), of_kind(read_events(tmp_path), "result")
    for card in (model_card(facts_of(state)), archive_card(card_facts(state, f"{REPO}-archive"))):
        heldout, search = [table for table in tables(card) if table[""][0] == "model"]
        assert heldout[""] == ["model", *(f"{name} (n = 4)" for name in names), "mean"]
        assert search[""] == ["model", *(f"{name} (n = 40)" for name in names), "mean"]
        assert heldout["best-mean"][:count] == ["0.875 ± 0.125"] * count
        assert heldout["base"][:count] == ["0.250 ± 0.250"] * count
        for model, number in {"best-mean": state.best_mean(), "expert:sql": 0, "expert:bash": 1}.items():
            shown = [text.split(" ± ")[0] for text in search[model]]
            scores = results[number]["scores"]
            assert shown == [f"{score:.3f}" for score in (*scores, sum(scores) / count)]


def test_a_model_card_shows_the_models_composition(measured: Run) -> None:
    facts = facts_of(measured, configuration=CONFIGURATION, chat=True)
    card = model_card(facts)
    composition, ancestors, parents = tables(card)[2:]
    genome = choose(measured, "best-mean").genome
    assert composition[""] == ["sql", "bash", "math", "mutations"]
    ((first, rest),) = [(key, row) for key, row in composition.items() if key]
    assert [first, *rest] == [*(f"{row[0]:.4f}" for row in genome.coefficients.tolist()), str(len(genome.mutations))]
    step = measured.steps[measured.best_mean()]
    assert ancestors[f"#{measured.best_mean()}"][0] == ", ".join(f"#{parent}" for parent in step["parents"])
    assert parents["sql"] == ["`org/sql`", "`sql-digest`"]
    assert f"evaluation #{measured.best_mean()}" in card.text
    assert "apply_chat_template" in card.text
    assert "cycleqd-merge merge mergekit_config.yml OUT\n```" in card.text
    assert "merge_method: cycleqd" in card.text
    assert "2410.14735" in card.text
    assert "2403.13257" in card.text
    assert "{{" not in card.text
    assert "apply_chat_template" not in model_card(replace(facts, chat=False)).text


def test_a_card_offers_no_command_where_mergekit_cannot_rebuild_the_model(measured: Run) -> None:
    _, _, rest = CONFIGURATION.partition("\n")
    card = model_card(facts_of(measured, configuration=f"# {NO_COMMAND}its description lacks a tensor\n{rest}"))
    section = card.text.partition("## Rebuild it")[2]
    assert "mergekit" not in section.partition("##")[0]
    assert "cycleqd-merge pull" in section or "genome.json" in section


def test_usage_of_a_card_is_code(measured: Run) -> None:
    for chat in (True, False):
        text = model_card(facts_of(measured, chat=chat)).text
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        compile(block, "card", "exec")
        assert f'from_pretrained("{REPO}"' in block


@pytest.mark.parametrize("adapter", [False, True])
def test_usage_of_a_model_in_a_subfolder_names_it(measured: Run, adapter: bool) -> None:
    card = model_card(facts_of(measured, subfolder="best-sql", adapter=adapter, configuration=CONFIGURATION))
    (block,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(block, "card", "exec")
    loads = [line for line in block.splitlines() if f'"{REPO}"' in line]
    assert len(loads) == 2  # tokenizer and model
    assert all('subfolder="best-sql"' in line for line in loads)
    assert ('AutoModelForCausalLM.from_pretrained("org/base"' in block) == adapter
    assert f"hf download {REPO} best-sql/mergekit_config.yml --local-dir .\ncd best-sql\ncycleqd-merge" in card.text
    assert "# merged/best-sql\n" in card.text


def test_every_kind_of_model_has_a_card(measured: Run) -> None:
    for name in ("best-mean", "aggregate", "mean", "base", "expert:sql", "best:bash", "#3"):
        card = model_card(facts_of(measured, name))
        heldout = tables(card)[0]
        assert list(heldout).count(name) <= 1
        assert f"`{name}`" in card.text
    assert "the softmax of their scores" in model_card(facts_of(measured, "aggregate")).text
    assert "marked" not in model_card(facts_of(measured, "aggregate")).text


def test_a_card_names_the_adapter_library_and_the_models_in_subfolders(measured: Run) -> None:
    card = model_card(facts_of(measured, adapter=True, others={"best-sql/": "best:sql"}))
    assert card.data.library_name == "peft"
    assert "`best-sql` | `best:sql`" in card.text


def test_without_held_out_scores_a_card_says_so(tmp_path: Path) -> None:
    state = make_run(tmp_path, failure=lambda number: HOSTILE if number == 1 else None)
    facts = facts_of(state)
    card = model_card(facts)
    assert "not scored on the held-out split" in card.text
    assert "On the search split" in card.text
    assert "expert:bash" not in tables(card)[0]
    assert ", 1 failed" in card.text
    results = ModelCard(str(card)).data.eval_results
    assert {result.dataset_split for result in results or []} == {"search"}
    assert "No model was scored on the held-out split" in archive_card(facts.run).text


def test_front_matter_of_an_archive_names_its_tables(measured: Run) -> None:
    card = archive_card(card_facts(measured, f"{REPO}-archive", license="mit"))
    front = front_matter(card)
    assert front["license"] == "mit"
    assert [(each["config_name"], each["data_files"]) for each in front["configs"]] == [
        ("elites", "data/elites.parquet"),
        ("generations", "data/generations.parquet"),
    ]
    elites = sum(len(archive.elites()) for archive in measured.archives)
    assert f"{elites} elites in 3 archives" in card.text
    assert f"cycleqd-merge pull {REPO}-archive run" in card.text
    assert isinstance(DatasetCard(str(card)), DatasetCard)


def test_hostile_texts_stay_texts(measured: Run) -> None:
    run = card_facts(measured, REPO)
    parents = tuple(replace(parent, reference=HOSTILE, license=License("other", HOSTILE)) for parent in run.parents)
    run = replace(run, parents=parents, license=parents[0].license)
    facts = replace(facts_of(measured), run=run, configuration=f"# command\ntext: {HOSTILE}\n```\n</details>")
    card = model_card(facts)
    assert front_matter(card)["license_name"] == HOSTILE
    assert ModelCard(str(card)).data.license_name == HOSTILE
    prose = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card.text)  # without blocks of code
    prose = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", prose)  # and without inline code
    assert "<script" not in prose
    assert prose.count("</details>") == 1
    assert all(len(row) == 2 for name, row in tables(card)[-1].items() if name)


def test_markdown_is_escaped() -> None:
    assert cell("a|b\n*c* <i>") == r"a\|b \*c\* \<i\>"
    assert code("x") == "`x`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert fenced("```\nx", "yaml") == "````yaml\n```\nx\n````"


def test_long_lines_of_a_configuration_are_cut_for_readers(measured: Run) -> None:
    facts = facts_of(measured, configuration=f"{CONFIGURATION}mutations: '{'x' * 100_000}'\n")
    text = model_card(facts).text
    assert len(text) < 20_000
    assert "100,013 characters; see mergekit_config.yml" in text


def write_model(folder: Path, front: str | None) -> str:
    """A model's folder with nothing but a card."""
    folder.mkdir()
    if front is not None:
        (folder / "README.md").write_text(f"---\n{front}\n---\n\n# Model\n")
    return str(folder)


def run_over(folder: Path, fronts: Mapping[str, str | None]) -> Run:
    """A run over models in folders with these cards: `base`, `sql`, `bash`."""
    references = {name: write_model(folder / name, front) for name, front in fronts.items()}
    base = references.pop("base")
    return make_run(folder / "run", len(references), 6, base=base, experts=references)


def test_local_models_are_named_without_their_paths(tmp_path: Path) -> None:
    state = run_over(tmp_path, {"base": "language: [en, ja]", "sql": "language: en", "bash": None})
    configuration = f"{CONFIGURATION}base_model: {tmp_path}/base\n"
    facts = facts_of(state, configuration=configuration)
    text = str(model_card(facts)) + str(archive_card(facts.run))
    assert str(tmp_path) not in text
    assert "base_model: ./models/base" in text
    front = front_matter(model_card(facts))
    assert "base_model" not in front
    assert "base_model_relation" not in front
    assert front["language"] == ["en", "ja"]


@pytest.mark.parametrize(
    ("base", "sql", "wanted"),
    [
        ("license: apache-2.0", "license: apache-2.0", License("apache-2.0")),
        ("license: Apache-2.0", None, License("apache-2.0")),
        ("license: [mit]", "license: mit", License("mit")),
        ("license: other\nlicense_name: own\nlicense_link: LICENSE", None, License("other", "own", "LICENSE")),
        (None, "title: [", None),
        ("- a list", None, None),
    ],
)
def test_the_licence_follows_from_the_parents(tmp_path: Path, base: str | None, sql: str | None, wanted: Any) -> None:
    run = card_facts(run_over(tmp_path, {"base": base, "sql": sql, "bash": None}), REPO)
    assert run.license == wanted
    front = front_matter(archive_card(run))
    assert front.get("license") == (wanted.id if wanted else None)
    assert front.get("license_link") == (wanted.link if wanted else None)


def test_different_licences_require_a_choice(tmp_path: Path) -> None:
    state = run_over(tmp_path, {"base": "license: llama3", "sql": "license: apache-2.0", "bash": "license: llama3"})
    with pytest.raises(UserError, match=r"differ \(base, bash: llama3; sql: apache-2\.0\); .* --license$"):
        card_facts(state, REPO)
    assert card_facts(state, REPO, license="llama3").license == License("llama3")
    other = (License("other", "one"), License("other", "two"))
    with pytest.raises(UserError, match="p0: one; p1: two"):
        derived_license({f"p{n}": license for n, license in enumerate(other)})


def test_cards_of_parents_are_read_from_the_hub_at_the_runs_commit(hub: LocalHub, tmp_path: Path) -> None:
    commit = hub.put("lab/base", {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}"})
    hub.put("lab/base", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    hub.put("lab/bare", {"config.json": b"{}"})
    experts = {"sql": "lab/bare", "bash": "lab/base+lab/bare"}
    state = make_run(tmp_path, 2, 6, base="lab/base", experts=experts, revisions={"lab/base": commit})
    base, sql, bash = parents_of(state)
    assert (base.license, base.reference, base.ids) == (License("mit"), f"lab/base@{commit}", ("lab/base",))
    assert (sql.license, bash.license, bash.ids) == (None, None, ("lab/base", "lab/bare"))
    assert card_facts(state, REPO).base_models == ("lab/base", "lab/bare")


def test_an_unreachable_hub_does_not_count_as_a_missing_licence(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_run(tmp_path, 2, 6, base="lab/gone")
    with pytest.raises(HubFailed, match="card of lab/gone"):
        parents_of(state)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert parents_of(state)[0].license is None


def test_facts_hold_for_a_run_of_real_models(original: Path) -> None:
    state = open_run(original)
    card = model_card(facts_of(state))
    (number,) = re.findall(r"evaluation #(\d+)", card.text)
    scores = of_kind(read_events(original), "result")[int(number)]["scores"]
    assert [text.split(" ± ")[0] for text in tables(card)[0]["best-mean"][:2]] == [f"{score:.3f}" for score in scores]
    assert json.dumps(str(original.parent.parent)) not in str(card)


def test_cards_say_how_optimistic_the_mean_is_that_chose_the_best_model(measured: Run) -> None:
    chosen = chosen_mean(measured)
    assert chosen is not None
    for card in (model_card(facts_of(measured)), archive_card(card_facts(measured, REPO))):
        (limit,) = [line for line in card.text.splitlines() if "search scores are optimistic" in line]
        assert limit.startswith("- ")
        assert limit.endswith(f"). {chosen}")
    other = model_card(facts_of(measured, "expert:sql"))
    assert str(chosen) not in other.text
