"""How much is left: an estimate before a run starts, made better by every stage that ends.

The first guess scales the seconds that stages of the default task took on two slow cores (`families`) by the number of
examples that they train on; stages that ran here before are taken at the time they took, scaled likewise, and whatever a
finished stage shows of this machine's speed is applied to those that are left. `console` says it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_inference.data.splits import most_training_rows
from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json
from adaptive_inference.machine import installed
from adaptive_inference.settings.training import WeightLearning
from adaptive_pipeline.families import FAMILIES
from adaptive_pipeline.runs.environment import other_versions

if TYPE_CHECKING:
    from adaptive_inference.settings.generation import TextTask
    from adaptive_inference.settings.inputs import Task
    from adaptive_pipeline.dvc_graph import StageNode
    from adaptive_pipeline.params import Params

DURATIONS = Path("logs/durations")

#: Training rows x epochs of the trainings in `families`; their seconds beyond `START` are for so many.
REFERENCE_EXAMPLES = 4_080
START = 10.0  # imports and DVC, whatever is trained
ROWS_OF_A_HUB = 5_000  # where the params do not limit them
DEFAULT_ROWS = 6_000  # of a generated text task


@dataclass(frozen=True)
class Entry:
    """A stage that is to run."""

    name: str
    label: str  #: as a person reads it
    seconds: float  #: guessed
    examples: int | None  #: that it trains on; None: it does not train
    known: bool  #: it ran here before
    threads: int
    upstream: tuple[str, ...]

    @property
    def family(self) -> str:
        """Return the name in ``dvc.yaml``."""
        return self.name.partition("@")[0]


@dataclass
class Plan:
    """What a run does, what of it has ended, and how long the rest takes."""

    entries: dict[str, Entry]  #: by name, upstream first
    cores: int
    announcement: str = ""
    took: dict[str, float | None] = field(
        default_factory=dict
    )  #: seconds of those that ended; None: not executed
    failed: set[str] = field(default_factory=set)

    def end(self, name: str, seconds: float, executed: bool) -> None:
        """Note that a stage ended well, and how long it took, if DVC executed it."""
        self.took[name] = seconds if executed else None

    def state(self, running: Mapping[str, float]) -> str:
        """Say how many stages are done and about how long the rest takes; see `left`."""
        left = self.left(running)
        more = f", about {human(left)} left" if left else ""
        return f"{len(self.took)} of {len(self.entries)} stages done{more}"

    def left(self, running: Mapping[str, float]) -> float:
        """Return the seconds until all that can still run has run: its work over the cores, or its longest chain if longer.

        Parameters
        ----------
        running
            Seconds since each running stage began, by name.
        """
        work, chain, lost = 0.0, {}, set(self.failed)
        for name, entry in self.entries.items():
            if name in lost or lost.intersection(entry.upstream):
                lost.add(name)
            elif name not in self.took:
                seconds = max(entry.seconds * self._slower(entry) - running.get(name, 0.0), 0.0)
                work += seconds * min(entry.threads, self.cores) / self.cores
                chain[name] = seconds + max((chain.get(up, 0.0) for up in entry.upstream), default=0.0)
        return max([work, *chain.values()])

    def _slower(self, entry: Entry) -> float:
        """Return how much slower this machine proved than was guessed: in stages of the same family, else in all.

        A minute on both sides of the latter keeps the first short stage from being taken for the whole truth.
        """
        if entry.known:
            return 1.0
        ended = [(self.entries[name], took) for name, took in self.took.items() if took is not None]
        guessed = [(other, took) for other, took in ended if not other.known]
        pairs = [(other.seconds, took) for other, took in guessed if other.family == entry.family]
        pairs = pairs or [(60.0, 60.0), *((other.seconds, took) for other, took in guessed)]
        return sum(took for _, took in pairs) / sum(seconds for seconds, _ in pairs)


def plan_run(
    stages: list[StageNode], params: Params, cores: int, built_elsewhere: Collection[str] = ()
) -> Plan:
    """Return the plan of a run: the stages that DVC would execute; all of them, where it does not answer.

    Parameters
    ----------
    built_elsewhere
        Stages that another version of this project built, see `dvc_graph.built_by_another_version`.
    """
    from adaptive_pipeline.settings import threads

    unknown, pending = any(stage.stale is None for stage in stages), _pending(stages)
    rows = _rows(params) if pending else {}
    entries = {
        stage.name: Entry(
            stage.name,
            label(stage),
            guess(stage.name, count),
            count,
            (DURATIONS / f"{stage.name}.json").is_file(),
            threads(stage, params, cores),
            stage.upstream,
        )
        for stage in stages
        if stage.name in pending
        for count in [examples(stage, params, rows)]
    }
    plan = Plan(entries, cores)
    again = pending.intersection(built_elsewhere)
    told = [run_again(again)] if again else []
    plan.announcement = "\n".join([*told, _announcement(plan, len(stages), unknown)])
    return plan


def _announcement(plan: Plan, stages: int, unknown: bool) -> str:
    if not plan.entries:
        return "all stages are computed; only what sits on top of them is made anew"
    rough = (
        "" if any(entry.known for entry in plan.entries.values()) else "; rough: nothing was timed here yet"
    )
    count = f"{len(plan.entries)} of {stages} stages to run"
    if unknown:
        count = (
            f"a stage of an earlier run is still working, so DVC does not tell what is left: up to {count}"
        )
    cores = "1 core" if plan.cores == 1 else f"{plan.cores} cores"
    return (
        f"{count}, about {human(plan.left({}))} on {cores}{rough}\n"
        "What stages print is in logs/, what Snakemake says in .snakemake/log/ (or here: `make run VERBOSE=1`)"
    )


def label(stage: StageNode) -> str:
    """Return a stage's name as a person reads it, e.g. ``train_sweet tiers/minilm/sweet seed 0``."""
    cell = [stage.argument(key) for key in ("task", "backbone", "model", "training", "method", "scores")]
    seed = stage.argument("seed")
    words = [stage.family, "/".join(filter(None, cell)), f"seed {seed}" if seed else ""]
    return " ".join(filter(None, words))


def run_again(names: Collection[str]) -> str:
    """Tell which stages another version of this project built, and what to do before they run again."""
    families = Counter(name.partition("@")[0] for name in sorted(names))
    return (
        "built by a version of this project that had other files, these run again: "
        f"{', '.join(f'{count} {family}' for family, count in families.items())}. To keep their records, stop now and "
        "`make keep` first, in that version"
    )


def tell_of_other_versions(stages: list[StageNode]) -> None:
    """Name the finished trainings that were made with other versions of the libraries than are installed."""
    from adaptive_pipeline.dvc_graph import stale_closure

    pending = stale_closure(stages)
    made = {
        Path(out): stage.name
        for stage in stages
        if stage.name not in pending
        for out in stage.outs
        if out.endswith("train_timings.json")
    }
    if found := other_versions(made):
        told = [
            f"{_some([made[file] for file in files])} with {used} (here {installed(used.split()[0])})"
            for used, files in found.items()
        ]
        say(
            f"made with other versions than are installed, these trainings may differ from the ones that run now: "
            f"{'; '.join(told)}. They stay as they are; `dvc repro --force --single-item STAGE` makes one anew"
        )


def guess(name: str, examples: int | None) -> float:
    """Return the seconds that a stage will take: what it took last time, else the reference, scaled to its examples."""
    past = _took(name)
    seconds, then = past or (FAMILIES[name.partition("@")[0]].seconds, REFERENCE_EXAMPLES)
    if examples is None or not then:
        return seconds
    start = min(START, seconds)
    return start + (seconds - start) * examples / then


def examples(stage: StageNode, params: Params, rows: dict[str, int]) -> int | None:
    """Return the training rows that a stage reads times its epochs; None unless it trains.

    Parameters
    ----------
    rows
        Training rows of each task, see `training_rows` and `text_rows`.
    """
    if not stage.family.startswith(("finetune_", "train_", "continue_")):
        return None
    task = stage.argument("task") or ""
    if stage.family in ("train_free", "continue_free"):
        asked = params.generation
        return rows[task] * (asked.trainings[str(stage.argument("training"))].epochs or asked.training.epochs)
    training, own = params.training_of(task, stage.argument("method") or "full")
    scheme = (own.weight_learning or WeightLearning()).scheme
    halved = own.objective == "weight_learning" and scheme != "slo"  # an epoch is half of the rows
    return rows[task] * training.epochs // (2 if halved else 1)


def longest_chains(stages: Sequence[StageNode], params: Params) -> dict[str, float]:
    """Return, of each stage that is to run, the seconds of the longest chain of stages that begins with it.

    The longest chain is to start first, so that no core waits at the end for a training that could have begun earlier.

    Parameters
    ----------
    stages
        Upstream first.
    """
    pending = _pending(stages)
    rows, chains = _rows(params) if pending else {}, dict.fromkeys(pending, 0.0)
    for stage in reversed(stages):
        if stage.name in pending:
            chains[stage.name] += guess(stage.name, examples(stage, params, rows))
            for before in pending.intersection(stage.upstream):
                chains[before] = max(chains[before], chains[stage.name])
    return chains


def _pending(stages: Sequence[StageNode]) -> set[str]:
    """Return the stages that DVC would execute; all of them, where it does not answer."""
    from adaptive_pipeline.dvc_graph import stale_closure

    unknown = any(stage.stale is None for stage in stages)
    return {stage.name for stage in stages} if unknown else set(stale_closure(list(stages)))


def _rows(params: Params) -> dict[str, int]:
    rows = {name: training_rows(task) for name, task in params.tasks.items()}
    return rows | {name: text_rows(task) for name, task in params.generation.tasks.items()}


def training_rows(task: Task) -> int:
    """Return about how many rows a task trains on; what is wrong with its file is told by `prepare_data`."""
    try:
        return most_training_rows(task, Path("data")) or ROWS_OF_A_HUB
    except (UserError, OSError):
        return ROWS_OF_A_HUB


def text_rows(task: TextTask) -> int:
    """Return about how many rows a text task trains on."""
    if task.source != "generated":
        return task.train_rows or ROWS_OF_A_HUB
    left = (task.rows or DEFAULT_ROWS) - task.development_rows - task.calibration_rows
    return min(left, task.train_rows or left)


def remember(entry: Entry, seconds: float) -> None:
    """Keep for later runs how long a stage took."""
    DURATIONS.mkdir(parents=True, exist_ok=True)
    write_json(DURATIONS / f"{entry.name}.json", {"seconds": seconds, "examples": entry.examples})


def _took(name: str) -> tuple[float, int | None] | None:
    """Return the seconds of a stage that ran here, and what it trained on; None where no file tells."""
    try:
        body = json.loads((DURATIONS / f"{name}.json").read_text(encoding="utf-8"))
        return float(body["seconds"]), body.get("examples")
    except (OSError, ValueError, KeyError):
        return None


def human(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str) -> None:
    """Write one line to the terminal."""
    print(f"adaptive-inference: {text}", file=sys.stderr, flush=True)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
