"""What docs/results/ shows is what its records say: every table is rebuilt from them, every cell is there."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from synthetic_records import PROJECT

from adaptive_pipeline.params import load_params
from adaptive_pipeline.reporting.report import make_report
from adaptive_pipeline.runs.store import open_runs
from adaptive_pipeline.runs.validity import why_unusable

#: Presets with kept tables. A long one that is being run in slices may keep its records alone, until the last.
KEPT = sorted(folder.parent.name for folder in (PROJECT / "docs/results").glob("*/tables"))

#: Ends of the names of figures that git keeps: quality against cost, of classifiers and of texts.
KEPT_FIGURES = ("-overview.png", "-quality_latency.png")
#: Presets whose every cell was run.
FINISHED = [
    "adapler-minilm",
    "adapler-mpnet",
    "adapler-tasks-minilm",
    "classifiers",
    "default",
    "deployments-minilm",
    "deployments-mpnet",
    "free-multi30k",
    "glue-small-cola",
    "glue-small-minilm",
    "glue-small-stsb",
    "grid",
    "qnli-agnews-minilm",
    "sst2-minilm",
    "sst2-mpnet",
    "sweet-mpnet",
]


def read_csv(preset, table):
    with (PROJECT / f"docs/results/{preset}/tables/{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.pipeline
@pytest.mark.parametrize("preset", KEPT)
def test_tables_and_recommendation_are_rebuilt_from_the_records_alone(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(
        Figure, "savefig", lambda *args, **more: None
    )  # two thirds of the time; no byte is compared
    kept = f"docs/results/{preset}"
    make_report(Path(kept, "records"), load_params(f"presets/{preset}.yaml"), tmp_path)
    made, there = (sorted((folder / "tables").iterdir()) for folder in (tmp_path, PROJECT / kept))
    assert [file.name for file in made] == [file.name for file in there]
    for file, other in zip(made, there, strict=True):
        assert file.read_bytes() == other.read_bytes(), file.name
    for name in ("recommendation.md", "recommendation.json"):
        assert (tmp_path / name).read_bytes() == (PROJECT / kept / name).read_bytes(), name
    drawn, there = (
        {file.name for file in (folder / "figures").iterdir() if file.name.endswith(KEPT_FIGURES)}
        for folder in (tmp_path, PROJECT / kept)
    )
    assert drawn == there != set()


@pytest.mark.parametrize("preset", FINISHED)
def test_every_cell_was_run(preset):
    params = load_params(PROJECT / f"presets/{preset}.yaml")
    assert read_csv(preset, "missing") == []
    assert not params.generation.methods or read_csv(preset, "generation_missing") == []
    runs = open_runs(PROJECT / f"docs/results/{preset}/records")
    for cell in params.grid.cells():
        assert why_unusable("evaluate_batch1", cell, runs, params) == "", cell
        timed = runs.companion("evaluate_batch1", cell, "timings")["rows"]
        assert cell.seed in params.evaluation.timed_seeds or not timed, cell
        for name in ("curves", "predictions"):
            assert runs.companion("evaluate_batch1", cell, name), (cell, name)


@pytest.mark.parametrize("preset", sorted(folder.name for folder in (PROJECT / "docs/results").glob("*/")))
def test_a_kept_preset_stays_small(preset):
    """Figures but `KEPT_FIGURES` are drawn again and not kept (`.gitignore`)."""
    files = [file for file in (PROJECT / "docs/results" / preset).rglob("*") if file.is_file()]
    redrawn = ("report.html", "metrics.json")
    kept = [file for file in files if file.name not in redrawn]
    kept = [file for file in kept if file.parent.name != "figures" or file.name.endswith(KEPT_FIGURES)]
    assert len(kept) <= 45
    assert sum(file.stat().st_size for file in kept) <= 4e6


class TestTiers:
    """The generated task measures what it was made for (docs/generated_task.md)."""

    def test_the_full_model_comes_near_the_ceiling_of_each_tier(self):
        rows = [row for row in read_csv("classifiers", "tiers") if row["method"] == "full"]
        assert {row["tier"] for row in rows} == set("12345")
        assert min(float(row["quality_mean"]) for row in rows) >= 0.9 * (1 - 0.02)

    @pytest.mark.parametrize("method", ["early_exit", "sweet"])
    def test_harder_tiers_leave_later(self, method):
        fast = {
            row["rule"]: float(row["layers_speedup"])
            for row in read_csv("classifiers", "main")
            if (row["method"], row["operating_point"]) == (method, "min_speedup_1.5")
        }
        assert min(fast.values()) >= 1.5
        layers = defaultdict(dict)
        for row in read_csv("classifiers", "tiers"):
            if (row["method"], row["operating_point"]) == (method, "min_speedup_1.5"):
                layers[row["rule"]][int(row["tier"])] = float(row["mean_exit_layer"])
        assert set(layers) == set(fast)
        for rule, tiers in layers.items():
            assert sorted(tiers) == [1, 2, 3, 4, 5]
            assert spearmanr(range(5), [tiers[k] for k in range(1, 6)])[0] >= 0.8, rule
