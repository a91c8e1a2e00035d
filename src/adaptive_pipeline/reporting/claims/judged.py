"""Every claim on every kept run that can speak of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_pipeline.params import load_params
from adaptive_pipeline.presets import names, preset_path, records_folder
from adaptive_pipeline.reporting.claims.listed import PAPERS, Claim
from adaptive_pipeline.reporting.claims.verdict import Finding, Verdict, decide, judge
from adaptive_pipeline.reporting.frame import Missing, Results, collect
from adaptive_pipeline.reporting.statistics.chance import against_chance

#: Presets that train what another one trains too: counted once. What else `deployments-minilm` has is a seed of SST-2.
REPEATED = {"default": "classifiers", "deployments-minilm": "qnli-agnews-minilm"}


@dataclass(frozen=True)
class Judged:
    """A claim, its tests, and why other runs with its methods gave none: (preset and task, reason)."""

    claim: Claim
    tests: list[Finding]
    untested: list[tuple[str, str]]

    @property
    def verdict(self) -> Verdict:
        """Of all tests together."""
        return decide(self.tests)[0]

    @property
    def deciding(self) -> list[Finding]:
        """The tests that the verdict stands on."""
        return decide(self.tests)[1]


@dataclass(frozen=True)
class Kept:
    """What git keeps of the presets.

    Attributes
    ----------
    runs
        Preset -> its results, one per task and backbone whose full model has learned the task.
    unlearned
        Preset and task of the others: a difference between methods says nothing there.
    missing
        Preset -> cells without a usable record.
    without
        Presets of whose classifiers nothing is kept.
    """

    runs: dict[str, list[Results]]
    unlearned: list[str]
    missing: dict[str, list[Missing]]
    without: list[str]


def read_kept_presets(presets: Iterable[str] | None = None) -> Kept:
    """Read the records of all presets, or of some, but of those that repeat another."""
    wanted = [name for name in (names() if presets is None else presets) if name not in REPEATED]
    there = [name for name in wanted if records_folder(name).is_dir()]
    read = {name: _read(records_folder(name), preset_path(name)) for name in there}
    found = {name: results for name, results in read.items() if results.params.tasks}  # some only write texts
    chances = {name: [(one, against_chance(one)) for one in results.each] for name, results in found.items()}
    return Kept(
        {name: [one for one, chance in pairs if chance is None] for name, pairs in chances.items()},
        [f"{name}, {one.pair[0]}" for name, pairs in chances.items() for one, chance in pairs if chance],
        {name: results.missing for name, results in found.items() if results.missing},
        [name for name in wanted if name not in found],
    )


def _read(records: Path, preset: Path) -> Results:
    return collect(records, load_params(preset))


def judge_claims(kept: Kept, claims: Sequence[Claim] | None = None) -> list[Judged]:
    """Test claims, all or some, on every run that holds their methods."""
    asked = claims or [claim for paper in PAPERS for claim in paper.claims]
    return [_judge(claim, kept) for claim in asked]


def _judge(claim: Claim, kept: Kept) -> Judged:
    tests, untested = [], []
    for preset, each in kept.runs.items():
        for results in each:
            if not set(claim.trial.methods) <= {cell.method for cell in results.cells}:
                continue
            effect = claim.trial.measure(results)
            task, backbone = results.pair
            if isinstance(effect, str):
                untested.append((f"{preset}, {task}", effect))
                continue
            invented = results.params.tasks[task].source == "generated"
            tests.append(Finding(preset, task, backbone, invented, effect, judge(effect, claim.side)))
    return Judged(claim, tests, untested)
