"""The quickstart as it is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge import evolve

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.slow
def test_the_quickstart_finds_a_model_with_the_skills_of_all_experts(tmp_path: Path) -> None:
    run = evolve(RECIPE, overrides=[f"output={tmp_path}/run", "finish={}"])
    assert run is not None
    assert [len(run.fits), run.generation] == [4, 60]
    experts = [run.judged(expert)[expert] for expert in range(3)]
    best = run.judged(run.best_mean())
    assert run.mean(best) > sum(experts) / 3 - 0.02, (best, experts)
