"""Secrets: values of environment variables and credentials are in nothing that is stored, printed or published."""

from __future__ import annotations

import base64
import html
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file

from tests.cli.conftest import MUTATION, Answer, cycleqd_merge
from tests.hub.address import BOUND
from tests.hub.conftest import ANN, TOKEN, Impatient, write_task
from tests.hub.server import LocalHub
from tests.models import make_adapter, make_base, make_expert
from tests.security.attacks import Attack, cases

PLANTED = {
    "PLANT_PROMPT": "prompt-4711-value",
    "PLANT_SYSTEM": 'quoted "value" \\ & <b>',
    "PLANT_STOP": "stop-4712-value",
    "PLANT_TEXT": "description-4713-value",
    "PLANT_OPTION": "option-4714-value",
    "PLANT_SET": "default-4715-value",
}
"""Variables of the recipe below; paths of models, rows and output are planted too."""
PLACES = {
    "journal": "run/journal.jsonl",
    "log": "run/run.log",
    "page": "page.html",
    "export": "exported/*",
    "comparison": "compared/**/*",
    "fork": "forked/journal.jsonl",
    "printed": "printed",
    "published journal": "hub/dataset/journal.jsonl",
    "published recipe": "hub/dataset/recipe.yaml",
    "published card": "hub/dataset/README.md",
    "published tables": "hub/dataset/data/*",
    "published model": "hub/model/**/*",
    "published page": "hub/space/*",
}
STORED = [
    Attack("secrets", f"a value of a variable in the {place}", "the text keeps its ${NAME}", pattern)
    for place, pattern in PLACES.items()
]

CREDENTIALS = [
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "hf_token", "WANDB_API_KEY", "OPENAI_KEY", "MY_SECRET", "DB_PASSWORD_2"),
    *("PGPASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "CYCLEQD_MYSQL_URL", "GITHUB_PAT"),
    *("GITLAB_TOKEN_1", "MYSQL_PWD", "PRIVATE_KEY", "HF_TOKEN_WRITE", "OPENAI_API_KEY_PROD", "MYAPIKEY", "SSHPASS"),
    *("SLACK_WEBHOOK_URL", "AZURE_STORAGE_CONNECTION_STRING", "NPM_AUTH"),
]
NAMED = [
    Attack("secrets", f"${{{name}}} in a prompt", "refused in one line that does not quote the value", name)
    for name in CREDENTIALS
] + [Attack("secrets", "a URL with a password under a harmless name", "refused in one line", "HARMLESS")]

QUOTED = {
    "as a number": {"evolution": {"generations": "${PLANT_WRONG}"}},
    "as a choice": {"engine": {"dtype": "${PLANT_WRONG}"}},
    "as a repository": {"hub": {"repo": "${PLANT_WRONG}"}},
    "as a model": {"base": "https://${PLANT_WRONG}"},
    "as a model with two signs": {"base": "./${PLANT_WRONG}+a+b@c@d"},
    "as a task": {"tasks": [{"task": "${PLANT_WRONG}"}, {"task": "${PLANT_WRONG}x"}]},
    "next to a missing key": {"tasks": [{"name": "a", "expert": "${PLANT_WRONG}"}, {"task": "letters.yaml"}]},
    "as a list": {"finish": {"export": "${PLANT_WRONG}"}},
    "as a pattern": {"evolution": {"groups": {"patterns": ["(${PLANT_WRONG}"]}}},
    "as a target": {"strategy": {"kind": "python", "target": "${PLANT_WRONG}"}},
    "as a kind": {"strategy": {"kind": "${PLANT_WRONG}"}},
    "as an expert": {"tasks": [{"task": "vowels.yaml", "expert": "${PLANT_WRONG}"}, {"task": "letters.yaml"}]},
    "as a folder of models": {"base": "/nowhere/${PLANT_WRONG}"},
}
MESSAGES = [
    Attack("secrets", f"a value {what} in an error", "the error names the variable", settings)
    for what, settings in QUOTED.items()
]

SECRET = 'abc/4716+"x"=<secret>'
FORMS = {
    "as it is": SECRET,
    "as JSON": json.dumps(SECRET)[1:-1],
    "in a URL": quote(SECRET, safe=""),
    "in HTML": html.escape(SECRET),
    "in base64": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "in base64, otherwise aligned": base64.b64encode(f"name:{SECRET}".encode()).decode(),
    "in hexadecimal": SECRET.encode().hex(),
    "in upper-case hexadecimal": SECRET.encode().hex().upper(),
    "a token of the Hub": "hf_" + "aB3" * 11 + "x",
    "a URL with a password": "see https://ann:pa55word@example.org/x",
    "a key of AWS": "AKIA" + "A2" * 8,
}
PUBLISHED = [
    Attack("secrets", f"a push of a credential {form}", "refused: names file and kind, not the value", text)
    for form, text in FORMS.items()
]
ROWS = [
    Attack("secrets", f"a push of rows with a credential in {form}", "refused", form) for form in ("JSON", "Parquet")
]
OTHERS = [
    Attack("secrets", attack, outcome)
    for attack, outcome in (
        ("a resumed run has another value", "refused; neither value is quoted"),
        ("a resumed run has no salt", "a notice; values are not compared"),
        ("a variable is no longer set", "show, page and export work; evolve names the variable"),
        ("a pulled recipe expands variables of the puller", "the text stays; evolve names the key"),
        ("the salt is read by others, or published", "mode 0600, in no repository"),
        ("a run with values in its journal is resumed with variables", "resumed as it was"),
        ("an exported configuration with the paths of its models", "has ${NAME}; `merge` replaces it"),
        ("a published model named by a variable", "the Hub id is published: pulling it needs no variable"),
        ("a traceback of --debug", "names variables, not values"),
        ("the address of a database with its password", "in no error and no repr"),
        ("a token as the model of an expert named `options`", "refused before the Hub is asked"),
        ("a token in a model of a mergekit configuration", "refused before the Hub is asked"),
        ("a stranger's chat template names variables for `envsubst`", "only those of the models' paths are replaced"),
        ("a push of a file named after a credential", "refused"),
        ("a push of a credential whose variable ends with a line break", "refused"),
    )
]
ATTACKS = [*STORED, *NAMED, *MESSAGES, *PUBLISHED, *ROWS, *OTHERS]


def attack(name: str) -> pytest.MarkDecorator:
    """Parametrises a test with a single attack."""
    return pytest.mark.parametrize("attack", cases(each for each in OTHERS if each.attack == name))


@dataclass(frozen=True)
class Planted:
    """A folder with a recipe that has variables everywhere, its run, and all that was made from it."""

    folder: Path
    values: dict[str, str]

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "out-4717-folder" / "run"


@pytest.fixture(scope="module")
def running() -> Iterator[LocalHub]:
    """A Hub with ann signed in, and nothing else in the client's cache."""
    with pytest.MonkeyPatch.context() as patch, LocalHub([ANN], BOUND) as hub:
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.utils._http.time", Impatient())
        huggingface_hub.close_session()
        yield hub
    huggingface_hub.close_session()


@pytest.fixture(autouse=True)
def _signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))


def write_recipe(folder: Path, values: dict[str, str] | None = None, **settings: Any) -> Path:
    """A recipe with variables in every kind of text. values: writes these instead of the variables."""
    mine, theirs = write_task(folder, "vowels"), write_task(folder, "letters")
    mine["prompt"] = "${PLANT_PROMPT} {{ question }}: "
    mine["description"] = "${PLANT_TEXT}"
    mine["data"]["search"]["path"] = "${PLANT_ROWS}/vowels-search.jsonl"
    theirs |= {"stop": ["${PLANT_STOP}"], "description": "$${PLANT_TEXT}"}
    theirs["prompt"] = "${PLANT_SYSTEM} ${PLANT_UNSET:-plain default} ${PLANT_SET:-another} {{ question }}: "
    recipe = {
        "base": "${PLANT_MODELS}/base",
        "experts": {"tuned": "${PLANT_MODELS}/tuned", "low": "${PLANT_MODELS}/base+${PLANT_MODELS}/low"},
        "tasks": [
            {"task": "${PLANT_ROWS}/vowels.yaml", "expert": "tuned", "bounds": [0.0, 1.0]},
            {"task": theirs, "name": "letters", "expert": "low", "bounds": [0.0, 1.0]},
        ],
        "evolution": {"generations": "${PLANT_COUNT}", "in_flight": 1, "bins": 4, "seed": 1, "mutation": MUTATION},
        "strategies": {
            "mine": {
                "strategy": {"kind": "python", "target": "mine.py:Mine", "options": {"text": "${PLANT_OPTION}"}},
                "evolution": {},
            }
        },
        "finish": {"heldout": False},
        "output": "${PLANT_OUT}/run",
        **settings,
    }

    def text(value: Any) -> str:
        written = json.dumps(value)
        for name, replacement in (values or {}).items():
            escaped = json.dumps(replacement)[1:-1]
            written = written.replace(f"${{{name}}}", escaped).replace(f"${{{name}:-another}}", escaped)
        return written

    rows = folder / "rows-4719"
    rows.mkdir()
    (folder / "vowels-search.jsonl").replace(rows / "vowels-search.jsonl")
    (folder / "vowels-heldout.jsonl").replace(rows / "vowels-heldout.jsonl")
    (rows / "vowels.yaml").write_text(text(mine))
    (folder / "recipe.yaml").write_text(text(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Values of the variables; models, rows and output are folders."""
    models, folder = tmp_path_factory.mktemp("models-4718"), tmp_path_factory.mktemp("planted")
    base = make_base(models / "base")
    make_expert(base, models / "tuned", seed=1)
    make_adapter(base, models / "low", seed=2)
    paths = {"PLANT_MODELS": models, "PLANT_ROWS": folder / "rows-4719", "PLANT_OUT": folder / "out-4717-folder"}
    return {**PLANTED, **{name: str(path) for name, path in paths.items()}}


@pytest.fixture(scope="module")
def planted(running: LocalHub, values: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Evolves, reports, exports, forks, compares and pushes."""
    made = Planted(Path(values["PLANT_ROWS"]).parent, values)
    made.folder.joinpath("mine.py").write_text("class Mine: ...\n")
    recipe, folder = write_recipe(made.folder), made.folder
    short = ("--budget", "1", "--seeds", "1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**values, "PLANT_COUNT": "2", "HF_TOKEN": TOKEN}.items():
            patch.setenv(name, value)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        answers = [
            succeeded("--verbose", "evolve", recipe),
            succeeded("show", made.run, "--json"),
            succeeded("report", made.run, "--output", folder / "page.html"),
            succeeded("export", made.run, "best-mean", folder / "exported"),
            succeeded("fork", made.run, folder / "forked", "--set", "evolution.generations=1"),
            succeeded("compare", recipe, "--strategies", "recipe,random", *short, "--output", folder / "compared"),
            succeeded("push", made.run, "--repo", "ann/planted", "--space", "--root", "best-mean"),
        ]
    (folder / "printed").write_text("".join(each.err for each in answers) + answers[1].out)
    for kind, name in running.repos:
        for path in running.repo(name, kind).tree():
            copy = folder / "hub" / kind / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(running.read(name, path, kind))
    shutil.copytree(made.run, folder / "run")
    return made


def succeeded(*arguments: object) -> Answer:
    answer = cycleqd_merge(*arguments)
    assert answer.code == 0, answer.err
    return answer


def set_all(monkeypatch: pytest.MonkeyPatch, planted: Planted, **others: str) -> None:
    for name, value in {**planted.values, "PLANT_COUNT": "2", **others}.items():
        monkeypatch.setenv(name, value)


def spellings(value: str) -> set[bytes]:
    return {value.encode(), json.dumps(value)[1:-1].encode(), html.escape(value).encode()}


@pytest.mark.parametrize("attack", cases(STORED))
def test_values_are_not_stored(attack: Attack, planted: Planted) -> None:
    files = [path for path in planted.folder.glob(attack.given) if path.is_file()]
    assert files
    found = [
        f"{path.relative_to(planted.folder)}: {name}"
        for path in files
        for name, value in {**planted.values, "HF_TOKEN": TOKEN}.items()
        for content in [path.read_bytes()]
        if any(each in content for each in spellings(value))
    ]
    assert not found


def test_texts_stay_as_they_were_written(planted: Planted) -> None:
    recipe = (planted.folder / "hub/dataset/recipe.yaml").read_text()
    for name in ("PLANT_PROMPT", "PLANT_SYSTEM", "PLANT_STOP", "PLANT_OPTION", "PLANT_SET:-another"):
        assert f"${{{name}}}" in recipe
    journal = (planted.run / "journal.jsonl").read_text()
    for name in (*planted.values, "PLANT_UNSET:-plain default"):
        assert f"${{{name}" in journal
    assert "generations: 2" in recipe  # a number is no secret, and steers a run's replay


@pytest.mark.parametrize("attack", cases(NAMED))
def test_credentials_are_refused_where_nothing_needs_them(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "https://ann:pa55word-4720@example.org" if attack.given == "HARMLESS" else "value-4720-secret"
    monkeypatch.setenv(attack.given, value)
    task = write_task(tmp_path, "vowels") | {"prompt": f"${{{attack.given}}} {{{{ question }}}}"}
    (tmp_path / "vowels.yaml").write_text(json.dumps(task))
    answer = cycleqd_merge("task", "show", tmp_path / "vowels.yaml")
    assert answer.code == 2, answer.out
    assert len(answer.err.splitlines()) == 1
    assert f"${{{attack.given}}} may hold a credential" in answer.err
    assert "4720" not in answer.out + answer.err


@pytest.mark.parametrize("attack", cases(MESSAGES))
def test_errors_do_not_quote_values(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT_WRONG", "wrong-4721-" + "long" * 20)
    for name in ("vowels", "letters"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(write_task(tmp_path, name)))
    recipe = {
        "base": "/nowhere/base",
        "experts": {"a": "/nowhere/a", "b": "/nowhere/b"},
        "tasks": [{"task": "vowels.yaml"}, {"task": "letters.yaml"}],
        "output": str(tmp_path / "run"),
        **attack.given,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    answer = cycleqd_merge("--debug", "evolve", tmp_path / "recipe.yaml")
    assert answer.code == 2, answer.err
    assert "4721" not in answer.out + answer.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"4721" not in path.read_bytes(), path


@pytest.fixture
def mine(planted: Planted, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(planted.run, tmp_path / "mine", ignore=shutil.ignore_patterns("lock", "hub.json")))


def edit_task(run: Path, **changes: Any) -> None:
    """Change the inline task of a run's recorded recipe."""
    journal = run / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in events:
        if event["event"] == "session":
            event["recipe"]["tasks"][1]["task"] |= changes
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize("attack", cases(PUBLISHED))
def test_credentials_are_not_pushed(
    attack: Attack, running: LocalHub, mine: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, planted, DEPLOY_SECRET=SECRET)
    edit_task(mine, prompt=f"{attack.given} {{{{ question }}}}")
    answer = cycleqd_merge("push", mine, "--repo", "ann/refused", "--archive-only")
    assert answer.code == 2, answer.err
    (line,) = answer.err.splitlines()
    assert "was not pushed" in line
    assert SECRET not in line
    assert attack.given not in line
    assert not [name for _, name in running.repos if name.startswith("ann/refused")]


@pytest.mark.parametrize("attack", cases(ROWS))
def test_rows_with_credentials_are_not_pushed(
    attack: Attack, running: LocalHub, mine: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, planted, DEPLOY_SECRET=SECRET)
    rows = mine / ("rows.parquet" if attack.given == "Parquet" else "rows.jsonl")
    lines = [{"question": SECRET, "answer": "a"}] * 20
    if attack.given == "Parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), rows, compression="zstd")
    else:
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit_task(mine, data={"rows": {"path": str(rows)}})
    answer = cycleqd_merge("push", mine, "--repo", "ann/rows", "--archive-only", "--rows")
    assert answer.code == 2, answer.err
    assert "contains the value of the environment variable DEPLOY_SECRET" in answer.err
    assert SECRET not in answer.err
    assert not [name for _, name in running.repos if name.startswith("ann/rows")]


@attack("a resumed run has another value")
def test_a_changed_value_is_reported(
    attack: Attack, mine: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, planted, PLANT_PROMPT="other-4722-value")
    answer = cycleqd_merge("evolve", mine, "--generations", "3")
    assert answer.code == 2
    stated = "tasks.vowels.definition.prompt: '${PLANT_PROMPT} {{ question }}: ' ->"
    assert f"{stated} 'a different value for ${{PLANT_PROMPT}} {{{{ question }}}}: '" in answer.err
    assert "4722" not in answer.err
    assert planted.values["PLANT_PROMPT"] not in answer.err


@attack("a resumed run has no salt")
def test_without_a_salt_values_are_not_compared(
    attack: Attack, mine: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_all(monkeypatch, planted)
    (mine / "variables.salt").unlink()
    assert cycleqd_merge("evolve", mine).code == 0
    assert "values of variables are not compared" in caplog.text


@attack("a variable is no longer set")
def test_a_run_opens_without_its_variables(
    attack: Attack, mine: Path, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANT_MODELS", planted.values["PLANT_MODELS"])
    for name in planted.values:
        if name != "PLANT_MODELS":
            monkeypatch.delenv(name, raising=False)
    assert cycleqd_merge("show", mine).code == 0
    assert cycleqd_merge("report", mine, "--output", tmp_path / "page.html").code == 0
    exported = cycleqd_merge("export", mine, "best-mean", tmp_path / "exported")
    assert exported.code == 0, exported.err
    weights = "exported/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (planted.folder / weights).read_bytes()
    answer = cycleqd_merge("evolve", mine, "--generations", "3")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert "is not set; set the environment variable" in answer.err
    monkeypatch.delenv("PLANT_MODELS")
    assert cycleqd_merge("show", mine).code == 0
    answer = cycleqd_merge("export", mine, "best-mean", tmp_path / "again")
    assert answer.code == 2
    assert "base: ${PLANT_MODELS} is not set" in answer.err


@attack("a pulled recipe expands variables of the puller")
def test_a_pulled_recipe_expands_nothing(
    attack: Attack, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, planted, PLANT_PROMPT="of-the-puller-4723")
    models = planted.values["PLANT_MODELS"]
    local = [f"base={models}/base", f"experts.tuned={models}/tuned", f"experts.low={models}/base+{models}/low"]
    arguments = [part for each in local for part in ("--set", each)]
    pulled = tmp_path / "pulled"
    succeeded("pull", "ann/planted-archive", pulled, "--trust-remote-code", *arguments)
    assert "4723" not in (pulled / "journal.jsonl").read_text()
    assert "${PLANT_PROMPT}" in (pulled / "journal.jsonl").read_text()
    succeeded("show", pulled)
    answer = cycleqd_merge("evolve", pulled, "--generations", "3")
    assert answer.code == 2
    assert "${PLANT_" in answer.err
    assert "was not published; give the key a value with --set" in answer.err
    assert "4723" not in answer.err


@attack("the salt is read by others, or published")
def test_the_salt_is_private(attack: Attack, running: LocalHub, planted: Planted) -> None:
    salt = planted.run / "variables.salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    value = salt.read_bytes().strip()
    for path in planted.folder.joinpath("hub").rglob("*"):
        assert path.name != salt.name
        assert not path.is_file() or value not in path.read_bytes()


@attack("a run with values in its journal is resumed with variables")
def test_older_runs_are_resumed(
    attack: Attack, planted: Planted, values: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe without variables writes the journal that earlier versions wrote of one with variables."""
    paths = {"PLANT_OUT": str(tmp_path), "PLANT_ROWS": str(tmp_path / "rows-4719")}
    set_all(monkeypatch, planted, **paths)
    shutil.copy(planted.folder / "mine.py", tmp_path / "mine.py")
    succeeded("evolve", write_recipe(tmp_path, {**values, **paths, "PLANT_COUNT": "1"}))
    old = (tmp_path / "run" / "journal.jsonl").read_text()
    assert values["PLANT_PROMPT"] in old
    shutil.rmtree(tmp_path / "rows-4719")
    succeeded("evolve", write_recipe(tmp_path), "--generations", "2")
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    assert journal.startswith(old)
    assert values["PLANT_PROMPT"] not in journal.removeprefix(old)
    scores = [
        [event["scores"] for event in map(json.loads, text.splitlines()) if event["event"] == "result"]
        for text in (journal, (planted.run / "journal.jsonl").read_text())
    ]
    assert scores[0] == scores[1]


@attack("an exported configuration with the paths of its models")
def test_an_exported_configuration_rebuilds_the_model(
    attack: Attack, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = planted.folder / "exported" / "mergekit_config.yml"
    assert "${PLANT_MODELS}/base" in configuration.read_text()
    answer = cycleqd_merge("merge", configuration, tmp_path / "rebuilt")
    assert answer.code == 2
    assert "${PLANT_MODELS} is not set" in answer.err
    set_all(monkeypatch, planted)
    succeeded("merge", configuration, tmp_path / "rebuilt")
    exported, rebuilt = (load_file(each / "model.safetensors") for each in (configuration.parent, tmp_path / "rebuilt"))
    assert exported.keys() == rebuilt.keys()
    assert all(exported[name].equal(tensor) for name, tensor in rebuilt.items())
    for path in (tmp_path / "rebuilt").rglob("*"):
        assert not path.is_file() or planted.values["PLANT_MODELS"].encode() not in path.read_bytes(), path


@attack("a published model named by a variable")
def test_hub_ids_are_published(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cycleqd_merge import load_recipe
    from cycleqd_merge.config.loading import stated_recipe
    from cycleqd_merge.hub.portable import portable_recipe

    for name, value in {"BASE": "org/base", "ORG": "acme", "PLANT_PROMPT": "prompt-4726-value"}.items():
        monkeypatch.setenv(name, value)
    tasks = [write_task(tmp_path, name) for name in ("vowels", "letters")]
    tasks[0] |= {
        "data": {"rows": {"dataset": "${ORG}/rows", "split": "${SPLIT:-train}"}},
        "prompt": "${PLANT_PROMPT} {{ q }}",
    }
    recipe = {
        "base": "${BASE}",
        "experts": {"a": "${ORG}/a", "b": "${BASE}+${ORG}/b"},
        "tasks": [{"task": task, "name": name} for task, name in zip(tasks, ("vowels", "letters"), strict=True)],
        "output": "run",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    published = stated_recipe(portable_recipe(load_recipe(tmp_path / "recipe.yaml")).recipe)
    assert published["recipe"]["base"] == "org/base"
    assert published["recipe"]["experts"] == {"a": "acme/a", "b": "org/base+acme/b"}
    task = published["recipe"]["tasks"][0]["task"]
    assert task["data"]["rows"] == {"dataset": "acme/rows", "split": "train"}
    assert task["prompt"] == "${PLANT_PROMPT} {{ q }}"
    assert published["variables"] == [["tasks", 0, "task", "prompt"]]


@attack("a traceback of --debug")
def test_tracebacks_are_redacted(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_SECRET", "secret-4724-value")
    answer = cycleqd_merge("--debug", "show", tmp_path / "secret-4724-value")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "${DEPLOY_SECRET}" in answer.err
    assert "4724" not in answer.err


@attack("the address of a database with its password")
def test_passwords_of_databases_are_not_shown(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    from cycleqd_merge.tasks.database.mariadb import mariadb_server

    for url in ("mysql://root:pa55-4725-word@127.0.0.1:1", "mysql://root:pa55-4725-word@127.0.0.1:x"):
        monkeypatch.setenv("CYCLEQD_MYSQL_URL", url)
        answer = cycleqd_merge("--debug", "task", "check", "agentbench-db")
        assert answer.code != 0
        assert "4725" not in answer.out + answer.err
    monkeypatch.setenv("CYCLEQD_MYSQL_URL", "mysql://root:pa55-4725-word@127.0.0.1:1")
    assert "4725" not in repr(mariadb_server())


def test_a_recipe_in_memory_keeps_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that the engine's process needs are in the recipe's values, and in nothing that is stored."""
    from cycleqd_merge import load_recipe
    from cycleqd_merge.config.loading import recorded_recipe, stated_recipe

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("vowels", "letters"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(write_task(tmp_path, name)))
    recipe = {
        "base": "org/base",
        "experts": {"a": "org/a", "b": "org/b"},
        "tasks": [{"task": "vowels.yaml"}, {"task": "letters.yaml"}],
        "engine": {"kind": "vllm", "environment": {"HUB": "${HF_TOKEN}", "ENDPOINT": "x/${HF_TOKEN}/$${HOME}"}},
        "output": "run",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    assert loaded.engine.kind == "vllm"
    assert loaded.engine.environment == {"HUB": TOKEN, "ENDPOINT": f"x/{TOKEN}/${{HOME}}"}
    session = json.loads(json.dumps(stated_recipe(loaded)))
    assert TOKEN not in json.dumps(session)
    assert session["recipe"]["engine"] == recipe["engine"]
    assert recorded_recipe(session, "journal").engine == loaded.engine
    assert os.environ["HF_TOKEN"] == TOKEN


@attack("a token as the model of an expert named `options`")
def test_options_are_only_those_of_code(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    recipe = {
        "base": "org/base",
        "experts": {"options": "org/${HF_TOKEN}", "b": "org/b"},
        "tasks": [{"task": write_task(tmp_path, name), "name": name} for name in ("vowels", "letters")],
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    answer = cycleqd_merge("plan", tmp_path / "recipe.yaml")
    assert answer.code == 2
    assert "experts.options: ${HF_TOKEN} may hold a credential" in answer.err
    assert TOKEN not in answer.err


@attack("a token in a model of a mergekit configuration")
def test_merge_asks_the_hub_for_no_token(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    configuration = tmp_path / "m.yml"
    models = "models: [{model: 'org/${HF_TOKEN}', parameters: {weight: 1}}]\n"
    configuration.write_text(f"merge_method: task_arithmetic\nbase_model: org/base\n{models}")
    answer = cycleqd_merge("merge", configuration, tmp_path / "out")
    assert answer.code == 2
    assert "${HF_TOKEN} may hold a credential" in answer.err
    assert TOKEN not in answer.err


@attack("a stranger's chat template names variables for `envsubst`")
def test_only_variables_of_paths_are_replaced(attack: Attack) -> None:
    from cycleqd_merge.merging.rebuild_command import with_variable_command, without_variable_command

    template = "chat_template: '{{ m }} ${HF_TOKEN} ${DATA}'\n"
    text = f"# mergekit-yaml mergekit_config.yml OUT\nbase_model: /data/base\n{template}"
    written = text.replace("/data/", "${DATA}/")
    command, _, rest = with_variable_command(text, written).partition("\n")
    assert command.startswith("# envsubst '${DATA}' < mergekit_config.yml > config.yml && mergekit-yaml config.yml OUT")
    assert without_variable_command(f"{command}\n{rest}") == written


@pytest.mark.parametrize("attack", cases(each for each in OTHERS if each.attack.startswith("a push of a ")))
def test_names_and_line_breaks_hide_no_credential(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    from cycleqd_merge.errors import RecipeError
    from cycleqd_merge.hub.scan import require_no_credentials

    monkeypatch.setenv("DEPLOY_SECRET", "value-4727-secret\n")
    for files in ({"rows/value-4727-secret.jsonl": b"{}"}, {"README.md": b"uses value-4727-secret here"}):
        with pytest.raises(RecipeError, match="DEPLOY_SECRET"):
            require_no_credentials(files)
