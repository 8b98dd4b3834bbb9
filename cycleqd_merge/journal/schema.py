"""The events of journals: a model for each kind, which says what every value must be.

Keys and kinds of event that are not listed here are kept as they are: newer versions may add them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cycleqd_merge.config.evolution import MAX_IN_FLIGHT, ArchiveConfig
from cycleqd_merge.config.fit import MAX_FITS
from cycleqd_merge.errors import printable
from cycleqd_merge.evolution.genome import Genome

_SHORT = 60  # characters of a key in a message

Score = Annotated[float, Field(ge=0, le=1)]
Scores = list[Score]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Names = list[str]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Place = list[str | Count]
Outcomes = dict[str, str]
"""By task, the outcomes of its rows; see `journal.outcomes`."""


class _Record(BaseModel):
    """Values are taken as they are: no text is read as a number, and no number as a truth value."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True)


class _Exact(_Record):
    model_config = ConfigDict(extra="forbid")


def _genome(record: dict[str, Any]) -> dict[str, Any]:
    Genome.from_json(record)
    return record


class _Founder(_Record):
    genome: Annotated[dict[str, Any], AfterValidator(_genome)]
    scores: dict[str, Score]
    outcomes: Outcomes = {}


class _Rows(_Record):
    search: Positive
    confirm: Count = 0


class _TaskIdentity(_Record):
    rows: _Rows
    definition: dict[str, Any] = {}
    semantics: Count = 0


class _Concealed(_Record):
    key: Place
    digest: str


Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
"""Of the tasks' losses in a fit."""


class _FitIdentity(_Record):
    settings: dict[str, Any]
    weights: Annotated[list[Weights], Field(min_length=1, max_length=MAX_FITS)]


class _Operators(_Record):
    archive: ArchiveConfig | None = None


class _Start(_Record):
    base: str = ""
    experts: dict[str, str]
    models: dict[str, Any] | None = None
    tasks: dict[str, _TaskIdentity] = {}
    strategy: dict[str, Any] = {}
    evolution: _Operators = _Operators()
    groups: Annotated[Names, Field(min_length=1)]
    in_flight: Annotated[int, Field(ge=1, le=MAX_IN_FLIGHT)]
    seeds: list[_Founder] = []
    fit: _FitIdentity | None = None
    revisions: dict[str, str] | None = None
    variables: list[_Concealed] = []


class _Use(_Record):
    task: str | dict[str, Any]
    name: str | None = None
    role: str = "optimise"


class _EvolutionSettings(_Record):
    preset: str | None = None


class _EngineSettings(_Record):
    kind: str = ""


class _Recipe(_Record):
    """What is read of a recorded recipe before it is validated as a recipe, which the last one of a run is."""

    experts: dict[str, str]
    tasks: list[_Use]
    evolution: _EvolutionSettings = _EvolutionSettings()
    engine: _EngineSettings = _EngineSettings()
    revisions: dict[str, str] = {}


class _Session(_Record):
    recipe: _Recipe
    folder: str = ""
    bases: dict[str, str] = {}
    environment: dict[str, Any] = {}
    time: float = 0
    leaked: dict[str, Any] = {}
    task_environments: dict[str, str] = {}
    engine_semantics: Count = 0
    variables: list[Place] = []
    unpublished: list[Place] = []


class _Result(_Record):
    number: Count
    step: dict[str, Any] | None = None
    scores: Scores | None
    error: str | None = None
    censored: bool = False
    partial: Scores = []
    scored: Count = 0
    rows: Count = 0
    outcomes: Outcomes = {}
    seconds: list[Annotated[float, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _counted(self) -> _Result:
        if self.censored and not self.scored <= self.rows > 0:
            raise ValueError(f"censored after {self.scored} of {self.rows} rows")
        return self


class _Bounds(_Record):
    bounds: list[tuple[float, float] | Annotated[list[float], Field(min_length=2, max_length=2)]]


class _Confirm(_Record):
    number: Count
    scores: Scores | None
    error: str | None = None
    outcomes: Outcomes = {}
    seconds: list[Annotated[float, Field(ge=0)]] | None = None


class _Estimate(_Exact):
    score: Score
    error: Annotated[float, Field(ge=0)] | None
    samples: Positive
    truncated: Score = 0.0


class _Measured(_Record):
    name: str = ""
    candidate: str
    rows: str
    tasks: dict[str, _Estimate]
    outcomes: Outcomes = {}


class _Fit(_Record):
    number: Count
    digest: _Digest
    weights: Weights = Field(default={}, validate_default=False)
    start: _Digest | None = None
    settings: dict[str, Any] = {}
    examples: dict[str, Count] = {}
    steps: Count | None = None
    loss: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    restarts: Count = 0
    tokens: Count = 0
    seconds: dict[str, Annotated[float, Field(ge=0)]] = {}
    released_mib: float = 0.0


class _Comparison(_Record):
    searches: Names
    budget: Count
    budget_seconds: Annotated[float, Field(gt=0)] | None = None
    seeds: Positive
    own_seeds: dict[str, Positive] = {}
    rows: str = "heldout"
    first: Count = 0
    experts: Names = []
    tasks: Names = []
    revisions: dict[str, str]
    presets: dict[str, str] = {}


class _FineTuned(_Record):
    strategy: str
    seed: Count
    settings: dict[str, Any] = {}
    steps: Count = 0
    loss: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    tokens: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0


class _RegMean(_Record):
    strategy: str
    seed: Count
    settings: dict[str, Any] = {}
    scale: float
    search: dict[str, _Estimate]
    seconds: Annotated[float, Field(ge=0)] = 0.0


class _Opened(_Record):
    at: str
    frozen: dict[str, Names]


class _FinalScores(_Record):
    scores: Annotated[Scores, Field(min_length=1)]
    truncated: Score


class _Heldout(_Record):
    candidate: str
    tasks: dict[str, _FinalScores] | None
    error: str | None = None


_KINDS: dict[str, type[_Record]] = {
    "start": _Start,
    "session": _Session,
    "result": _Result,
    "bounds": _Bounds,
    "confirm": _Confirm,
    "measured": _Measured,
    "fit": _Fit,
    "comparison": _Comparison,
    "fine-tuned": _FineTuned,
    "regmean": _RegMean,
    "opened": _Opened,
    "heldout": _Heldout,
}


def problem(event: dict[str, Any], complete: bool) -> str | None:
    """What is wrong with an event, in a few words; None if nothing is.

    complete: keys that are missing are wrong, too.
    """
    kind = event.get("event")
    if not isinstance(kind, str):
        return "this line is not an event"
    model = _KINDS.get(kind)
    try:
        if model is not None:
            model.model_validate(event)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        for detail in details:
            if complete or detail["type"] != "missing":
                place = ".".join(printable(str(part)[:_SHORT]) for part in detail["loc"][:8])
                reason = detail["msg"].removeprefix("Value error, ")
                return f"{kind}: {place}: {reason[:1].lower()}{reason[1:]}"
    return None


def unknown_keys(event: dict[str, Any]) -> set[str]:
    """The keys of an event that this version does not know."""
    model = _KINDS.get(event["event"])
    return set(event) - {"event", "format", *(() if model is None else model.model_fields)}
