"""How operating points are chosen, how the reported numbers are taken, and where stages compute; loads no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adaptive_inference.settings.base import Count, OpenFraction, Section

#: Kinds of scores of tokens; `attribution` makes them.
ScoreKind = Literal["saliency", "integrated_gradients", "attention", "attention_rollout"]
#: What a method may be deployed as: `exits.deployment.DEPLOYMENTS`, as editors and pydantic read it.
DeploymentKind = Literal["torch", "onnx_fp32", "onnx_int8"]


class Calibration(Section):
    """What is fitted on the calibration split."""

    temperature: bool = Field(
        True, description="Fit one temperature per exit before any rule sees the logits."
    )
    calibrate_on: Literal["calibration", "evaluation"] = Field(
        "calibration",
        description="`evaluation` leaks the reported split; only to reproduce published numbers.",
    )
    thresholds: Annotated[int, Field(ge=2)] = Field(100, description="Thresholds of every rule's grid.")


class Risk(Section):
    """A guarantee: P(risk <= delta) >= 1 - epsilon, see docs/risk_control.md."""

    loss: Literal["accuracy", "consistency"] = Field(
        "accuracy",
        description="Of a row: 1 where only the full model is right, or where the answer differs from its answer.",
    )
    delta: OpenFraction = Field(description="Greatest mean loss, a fraction.")
    epsilon: OpenFraction = Field(0.05, description="Greatest probability that the guarantee fails.")


class Goal(Section):
    """How operating points are chosen, always on the calibration split and in one currency of cost."""

    cost: Literal["layers", "flops"] = Field(
        "layers", description="What fast means: transformer layers run, or exact FLOPs."
    )
    max_loss: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="Points (hundredths) of quality that may be lost against the full model."
    )
    confidence: OpenFraction = Field(
        0.8, description="How often what is recommended is to stay within `max_loss` on rows not seen before."
    )
    min_speedup: list[Annotated[float, Field(ge=1.0)]] = Field(
        [2.0], description="For each value: the best quality at a cost at least that many times lower."
    )
    max_latency_ms: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Another way to ask for a deployment: the best quality within so many milliseconds a text, in the "
        "mean at batch 1 on this machine; absent: the fastest within `max_loss`.",
    )
    deployment_loss: Annotated[float, Field(ge=0.0)] = Field(
        1.0,
        description="Points that a deployment may lose at full depth against the same model in PyTorch; if it loses more, "
        "it is refused.",
    )
    risk: Risk | None = Field(None, description="The fastest threshold of certified risk; absent: none.")

    @model_validator(mode="after")
    def _named_apart(self) -> Goal:
        names = [f"{value:g}" for value in self.min_speedup]  # as their operating points are named
        if len(set(names)) < len(names):
            raise ValueError(f"goal.min_speedup ({', '.join(names)}) has a value twice; list each once")
        return self


class Evaluation(Section):
    """Protocol of the reported numbers."""

    timed_seeds: list[int] = Field(
        [], description="Seeds whose wall-clock is measured; others get layers and FLOPs."
    )
    timed_examples: Count = Field(200, description="Rows of the evaluation split that are timed, drawn once.")
    repeats: Count = Field(5, description="Interleaved rounds over the timed rows.")
    warmup: Annotated[int, Field(ge=0)] = Field(20, description="Untimed rows before the first round.")
    bootstrap: Annotated[int, Field(ge=0)] = Field(
        1000, description="Resamples of an interval; 0: no intervals."
    )
    batch_size: Count = Field(64, description="Rows per forward when all exits' logits are computed.")


class Explanations(Section):
    """How far scores of tokens agree with rationales, and which tokens survive; see docs/attribution.md."""

    methods: list[str] = Field(
        [],
        description="`full`, whose model gives the other kinds of scores, and methods that remove tokens; []: none.",
    )
    rows: Count = Field(
        200,
        description="Rows of the evaluation split: the first with a rationale; of a task without, the first.",
    )
    integrated_gradients_rows: Annotated[int, Field(ge=0)] = Field(
        50,
        description="Of these, the rows that integrated gradients explain; 32 forwards and backwards a row.",
    )
    pictures: Annotated[int, Field(ge=0)] = Field(
        6, description="Rows of which a picture shows the tokens that survive each layer."
    )


class Runtime(Section):
    """Where and how stages compute."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA where there is one.")
    threads: Count = Field(1, description="Intra-op threads of every stage: part of the result, bit by bit.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Of training (`bf16` is refused for DeBERTa v1); evaluation is always fp32."
    )
