"""Which deployment of a model answers fastest on this machine, on its user's own texts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.exits.deployment import DEPLOYMENTS, deployment_of, is_deployment
from adaptive_inference.exits.layout import open_model
from adaptive_inference.files import write_json
from adaptive_inference.machine import fingerprint
from adaptive_inference.serving.export import check_empty, export
from adaptive_inference.serving.predictor import Predictor, Text, load_predictor

#: What was timed and chosen, beside the chosen model.
TUNING_FILE = "tuning.json"
#: Texts that each candidate answers before it is timed; resamples of the intervals.
_WARMUP, _RESAMPLES = 10, 1000


@dataclass(frozen=True)
class Candidate:
    """One way to run the model, or why it cannot be run so.

    Attributes
    ----------
    deployment
        One of `exits.deployment.DEPLOYMENTS`.
    threads
        That one operator may use.
    why
        Why it is refused; None: it is not.
    agreement
        Share of the texts that it answers as the model does in the form that it came in; of scores, see `_agreement`.
    median_ms, p95_ms
        Of one text, from its characters to the answer.
    speedup, low, high
        Against the model in the form that it came in, and the 95 % interval over texts.
    chosen
        Whether it is the fastest that agrees.
    """

    deployment: str
    threads: int | None = None
    why: str | None = None
    agreement: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Trial:
    """How candidates are tried.

    Attributes
    ----------
    texts
        That they answer, one at a time.
    threads
        Numbers of threads that exported models are tried with. PyTorch is tried with those that it has.
    rounds
        How often each text is timed.
    agreement
        The least of `Candidate.agreement` that a candidate is chosen at.
    seed
        Of the orders, and of the intervals.
    """

    texts: Sequence[Text]
    threads: Sequence[int]
    rounds: int = 3
    agreement: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be tried.

        Raises
        ------
        UserError
            Names the value.
        """
        if not self.texts:
            raise UserError("there is no text to time; give some like those that the model will answer")
        for name, values in (("threads", self.threads), ("rounds", [self.rounds])):
            for value in values:
                if value < 1:
                    raise UserError(f"{name} {value} must be a whole number from 1")
        if not 0 <= self.agreement <= 1:
            raise UserError(f"agreement {self.agreement:g} must be a share from 0 to 1, e.g. 0.99")


def tune(model: Path, out: Path, trial: Trial, tell: Callable[[str], None]) -> list[Candidate]:
    """Time a model's deployments on texts, and write the fastest that agrees with the model as it came.

    All answer the same text one right after the other, in random order: only their ratios mean something.

    Parameters
    ----------
    model
        Exported folder, or a method's run folder. One that holds graphs is tried with different threads alone: other
        deployments are made of weights.
    out
        The chosen deployment, made here with ``tuning.json``; must not exist or be empty.
    trial
        Texts, threads, rounds.
    tell
        Is told what happens next.

    Returns
    -------
    The candidates, the model as it came first.

    Raises
    ------
    UserError
        ``out`` holds something, or the model cannot be loaded or exported at all.
    """
    check_empty(out)
    with tempfile.TemporaryDirectory() as scratch:
        found = list(_made(model, Path(scratch), trial.threads, tell))
        runs = [(place, predictor) for place, (_, predictor) in enumerate(found) if predictor is not None]
        rows = [row for row, _ in found]
        tell(f"timing {len(runs)} candidates on {len(trial.texts)} texts, {trial.rounds} rounds")
        for count in dict.fromkeys(rows[place].threads for place, _ in runs[1:] or runs):
            # apart: threads of ONNX Runtime go on waiting for a while, and would take time from what comes next
            group = [runs[0], *(run for run in runs[1:] if rows[run[0]].threads == count)]
            for (place, _), measured in zip(
                group, _measured([predictor for _, predictor in group], trial), strict=True
            ):
                rows[place] = replace(rows[place], **measured)
        agreeing = [place for place, _ in runs if rows[place].agreement >= trial.agreement]
        best = max(agreeing, key=lambda place: rows[place].speedup)
        rows[best] = replace(rows[best], chosen=True)
        _write(model, Path(scratch), out, rows, trial)
    return rows


def _made(
    model: Path, scratch: Path, threads: Sequence[int], tell: Callable[[str], None]
) -> Iterator[tuple[Candidate, Predictor | None]]:
    """Yield the candidates, each with what runs it; the model as it came first."""
    home = open_model(model).home
    own = deployment_of(home)
    if not is_deployment(home):
        import torch

        yield Candidate(own, torch.get_num_threads()), load_predictor(model)
    for name in DEPLOYMENTS[1:]:
        folder = model
        if is_deployment(home):
            if name != own:
                continue
        else:
            folder = scratch / name
            tell(f"exporting {name}")
            try:
                export(model, folder, name)
            except UserError as error:
                yield Candidate(name, why=str(error)), None
                continue
        for count in threads:
            yield Candidate(name, count), load_predictor(folder, threads=count)


def _measured(predictors: Sequence[Predictor], trial: Trial) -> list[dict[str, float]]:
    """Return what is measured of each, in comparison with the first."""
    answers = [[predictor.answer(text).label for text in trial.texts] for predictor in predictors]
    spent_KRN = time_interleaved(
        [predictor.answer for predictor in predictors], trial.texts, trial.rounds, _WARMUP, trial.seed
    )
    found = []
    for own, said in zip(spent_KRN, answers, strict=True):
        row = summarise(Timing(spent_KRN[0], own), _RESAMPLES, trial.seed)
        found.append(
            {"agreement": _agreement(answers[0], said), "median_ms": row["median_ms"], "p95_ms": row["p95_ms"]}
            | {key.removeprefix("wallclock_"): row[key] for key in
               ("wallclock_speedup", "wallclock_low", "wallclock_high")}
        )  # fmt: skip
    return found


def _agreement(first: Sequence[Any], other: Sequence[Any]) -> float:
    """Return the share of equal labels; of scores the share of their variance that is the same (1 - squared error)."""
    if isinstance(first[0], str):
        return float(np.mean([one == another for one, another in zip(first, other, strict=True)]))
    scores, others = np.asarray(first), np.asarray(other)
    spread = scores.var()
    return float(1.0 - ((scores - others) ** 2).mean() / spread if spread else np.array_equal(scores, others))


def _write(model: Path, scratch: Path, out: Path, rows: Sequence[Candidate], trial: Trial) -> None:
    """Write the chosen deployment and what was found."""
    (chosen,) = (row for row in rows if row.chosen)
    made = scratch / chosen.deployment
    graphs = made if made.is_dir() else open_model(model).home
    if is_deployment(graphs):
        shutil.copytree(graphs, out, dirs_exist_ok=True)
    else:
        export(model, out)
    told = {"texts": len(trial.texts), "rounds": trial.rounds, "agreement": trial.agreement}
    write_json(
        out / TUNING_FILE,
        {"machine": fingerprint(), "asked": told, "candidates": [asdict(row) for row in rows]},
    )
