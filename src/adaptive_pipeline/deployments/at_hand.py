"""Which models are deployed, in which deployments, with what each is calibrated and run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.operating_point import OperatingPoint, static_name
from adaptive_inference.errors import UserError
from adaptive_inference.exits.layout import CALIBRATION_FILE, RUN_CALIBRATION, RUN_MODEL, open_model
from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.chosen import alone, calibration_of
from adaptive_inference.serving.export import copy_model
from adaptive_pipeline.runs.deployment_records import ExportRecord
from adaptive_pipeline.runs.records import model_of

if TYPE_CHECKING:
    import torch

    from adaptive_inference.engine import Engine
    from adaptive_inference.exit_rules import ExitRule
    from adaptive_inference.exits.outputs import ExitOutputs
    from adaptive_pipeline.params import Params
    from adaptive_pipeline.runs.records import RecommendationRecord
    from adaptive_pipeline.stage import Stage

#: Splits that every deployment answers.
SPLITS = ("calibration", "evaluation")
#: Deployments that are graphs for ONNX Runtime.
ONNX = ("onnx_fp32", "onnx_int8")


@dataclass(frozen=True)
class Deployable:
    """A model that is deployed, and what as; see `deployables`.

    Attributes
    ----------
    key
        Of its rows in tables: its method, or ``static_K`` of a cascade's member.
    method, member
        Whose run it is of, and the layers of the member that answers alone.
    deployments
        Those of `exits.deployment.DEPLOYMENTS` that it is deployed as.
    home
        Folder of its weights.
    calibration
        Content of ``calibration.json``, of this model alone.
    answers
        Split -> its answers in PyTorch.
    """

    key: str
    method: str
    member: int | None
    deployments: tuple[str, ...]
    home: Path
    calibration: Mapping[str, Any]
    answers: Mapping[str, Answers]

    @classmethod
    def of(cls, seed: Path, method: str, member: int | None, deployments: tuple[str, ...]) -> Deployable:
        """Read a method's run below the folder of its seed."""
        run = seed / method
        home, body = run / RUN_MODEL, read_json(run / RUN_CALIBRATION)
        answers = {name: Answers.load(run / f"answers/{name}.safetensors") for name in SPLITS}
        if member is None:
            return cls(method, method, None, deployments, home, body, answers)
        k = answers[SPLITS[0]].outputs.exits.index(member)
        own = {
            name: replace(
                item, outputs=item.outputs.alone(k), yardstick=item.yardstick.alone(k), cascade=False
            )
            for name, item in answers.items()
        }
        key, home = static_name(member), home / str(member)
        return cls(key, method, member, deployments, home, alone(body, member), own)

    def rules(self, params: Params) -> dict[str, ExitRule]:
        """Return the rules that it may be run with: its method's, and leaving at a fixed exit, as a static model does."""
        from adaptive_inference.exit_rules import load_rule, load_rules

        own = {} if self.member else load_rules(params.method(self.method).rules)
        attainable = {name: rule for name, rule in own.items() if rule.attainable}
        return attainable | {"fixed": load_rule("fixed")}

    def write(self, folder: Path, calibration: Mapping[str, Any], point: OperatingPoint | None) -> None:
        """Write it as a folder with weights, with a calibration and the point to predict with."""
        copy_model(self.home, folder, calibration_of(calibration, point))


def deployables(seed: Path, choice: RecommendationRecord, params: Params) -> list[Deployable]:
    """Return the models of a seed that are deployed, and what as.

    The full one, what is recommended and the best that can be exported are deployed as everything. Every other method is
    deployed as the graphs that ``params.deployments`` asks for: in PyTorch the main table has it.

    Parameters
    ----------
    seed
        Folder of a task, backbone and seed.
    choice
        The record of `recommend`.
    params
        Whose methods are deployed.
    """
    found: dict[tuple[str, int | None], tuple[str, ...]] = {("full", None): ("torch", *ONNX)}
    for offer in (choice.offer, choice.exportable):
        if offer is not None and offer.method is not None and offer.setting is not None:
            found[offer.method, offer.setting.member] = ("torch", *ONNX)
    if asked := tuple(name for name in ONNX if name in params.deployments):
        for method in sorted(params.methods):  # DVC does not see their order
            found.setdefault((method, None), asked)
    return [
        Deployable.of(seed, method, member, deployments) for (method, member), deployments in found.items()
    ]


@dataclass(frozen=True)
class Deployed:
    """A model in one deployment, with its own calibration.

    Attributes
    ----------
    model
        What is deployed.
    deployment
        One of `exits.deployment.DEPLOYMENTS`.
    runs
        A PyTorch model on its device, or an exported one.
    calibration
        Content of ``calibration.json``, fitted on the answers of this deployment.
    answers
        Split -> its answers.
    """

    model: Deployable
    deployment: str
    runs: Any
    calibration: Mapping[str, Any]
    answers: Mapping[str, Answers]

    @property
    def label(self) -> str:
        """Names it in a pool of candidates."""
        return f"{self.model.key} {self.deployment}"

    @property
    def calibrator(self) -> Calibrator:
        """What its rules see its answers through."""
        return Calibrator.from_json(self.calibration)

    def outputs(self, split: str) -> ExitOutputs:
        """Return its answers to a split, calibrated."""
        return calibrate(self.answers[split].outputs, self.calibrator)

    def engine(self, rule: str, threshold: float | None) -> Engine:
        """Return what runs it at a threshold."""
        from adaptive_inference.engine import Engine

        runner = getattr(self.runs, "runner", None)
        return Engine(self.runs, rule, threshold, self.calibrator, runner=runner)

    def by_exit(self) -> list[Engine]:
        """Return an engine for each exit, by which every row leaves."""
        return [self.engine("fixed", float(k)) for k in range(len(self.runs.exits))]

    def written(self, point: OperatingPoint, scratch: Path, threads: int) -> tuple[Path, Engine]:
        """Export it for an operating point, stopped where that can decide, and return the folder and what runs it."""
        from adaptive_inference.serving.export import add_confidences, export
        from adaptive_inference.serving.predictor import load_predictor

        self.model.write(scratch / "weights", self.calibration, point)
        export(scratch / "weights", scratch / "graphs", self.deployment)
        shutil.rmtree(scratch / "weights")
        # a server holds its confidences against those of this deployment, not of the PyTorch model
        file, outputs = (
            scratch / "graphs" / CALIBRATION_FILE,
            self.answers[self.calibration["calibrated_on"]].outputs,
        )
        write_json(file, add_confidences(read_json(file), outputs))
        return scratch / "graphs", load_predictor(scratch / "graphs", threads=threads).engine


def begin(stage: Stage, models: Sequence[Deployable], choice: RecommendationRecord, *keys: str) -> Any:
    """Open a stage's record on the choice and the models that it deploys, as `deployables` returns them.

    What a killed run left in its scratch folder goes: half an export is none.
    """
    shutil.rmtree(stage.scratch, ignore_errors=True)
    assert choice.offer is not None
    seed, names = stage.inputs["methods"], {choice.offer.method: "model", "full": "full"}
    made_from: dict[str, str] = {}
    for model in models:
        name = names.get(model.method, model_of(model.method))
        stage.add_input(name, seed / model.method / RUN_MODEL)
        made = model.answers[SPLITS[0]].made_from
        made_from |= {"data": made["data"], "full": made["full"], name: made["model"]}
    stage.add_input("data", seed / "data/splits")
    record: Any = stage.begin(*keys, made_from=made_from)
    record.recommended = choice.offer.method, choice.offer.setting
    return record


def all_deployed(
    models: Sequence[Deployable], exported: Path, device: torch.device, threads: int
) -> list[Deployed]:
    """Return models in all that they are deployed as, in PyTorch first; refused ones are left out.

    Parameters
    ----------
    models
        See `deployables`.
    exported
        What `export_model` wrote.
    device
        Of the PyTorch models.
    threads
        Of the exported ones.
    """
    from adaptive_inference.exits import load_model
    from adaptive_inference.serving.onnx_model import OnnxModel

    found = []
    for model in models:
        if "torch" in model.deployments:
            runs = load_model(model.home).to(device)
            found.append(Deployed(model, "torch", runs, model.calibration, model.answers))
        for item in ExportRecord.load(exported).models:
            if item.method != model.key or item.why:
                continue
            folder = exported / model.key / item.deployment
            graphs = OnnxModel(open_model(folder), threads)
            answers = {name: Answers.load(folder / f"{name}.safetensors") for name in SPLITS}
            found.append(Deployed(model, item.deployment, graphs, graphs.calibration, answers))
    return found


def require_onnx() -> None:
    """Load what makes and runs graphs, or say what to install.

    Raises
    ------
    UserError
        onnx or onnxruntime is missing.
    """
    try:
        import adaptive_inference.serving.onnx_export  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"models are deployed by ONNX Runtime too, and {error.name} is not installed; install it: "
            "pip install 'adaptive-inference[pipeline]'"
        ) from error
