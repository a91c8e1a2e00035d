"""Which stage trains a method, and what a method that removes tokens needs of others; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from adaptive_inference.errors import nearest
from adaptive_inference.settings.base import Section
from adaptive_inference.settings.training import OURS, REDUCING
from adaptive_pipeline.grid import TRAINING_STAGES

#: Objectives of this project that a stage trains; see dvc.yaml.
STAGE_OBJECTIVES: dict[str, tuple[str, ...]] = {
    "finetune_backbone": ("joint",),
    "train_sweet": ("joint", "learning_to_exit"),
    "train_leebert": tuple(name for name in OURS if name not in REDUCING),
    "train_multi_model": ("joint",),
    "train_adapler": REDUCING,
    "train_adapler_exits": ("frozen",),
}


class TrainedBy(Section):
    """Which stage trains a method; every method but `full` stands here once."""

    train_sweet: list[str] = Field(description="Methods that start from the pre-trained encoder alone.")
    train_leebert: list[str] = Field(
        description="Methods of any objective but those of `train_adapler`; may start or learn from the full model."
    )
    train_multi_model: list[str] = Field(description="A cascade of models, at most one.")
    train_adapler: list[str] = Field(
        [],
        description="Methods that learn to remove tokens, by saliencies of the full model: `token_scores`.",
    )
    train_adapler_exits: list[str] = Field(
        [], description="Methods whose exits are trained on `pruned_body`, which stays as it is."
    )

    @property
    def not_exported(self) -> set[str]:
        """Methods that ONNX Runtime does not run: a cascade as a whole, and models that remove tokens."""
        return {*self.train_multi_model, *self.train_adapler, *self.train_adapler_exits}

    @property
    def by_stage(self) -> dict[str, list[str]]:
        """Each of `TRAINING_STAGES` with its methods."""
        return {stage: getattr(self, stage) for stage in TRAINING_STAGES}


def check_stages(trained_by: TrainedBy, objectives: Mapping[str, str]) -> None:
    """Refuse a method that is not known, or stands under a stage that does not train its objective.

    Parameters
    ----------
    objectives
        Of all methods, by name.

    Raises
    ------
    ValueError
        Names the method and the stage to list it under.
    """
    for names in trained_by.by_stage.values():
        for name in names:
            if name not in objectives:
                raise ValueError(
                    f"trained_by names {name!r}, which `methods` lacks; allowed: {', '.join(objectives)}"
                    f"{nearest(name, list(objectives))}"
                )
    full = [name for name in ("full",) if name in objectives]  # none where there are no classifiers
    for stage, names in (trained_by.by_stage | {"finetune_backbone": full}).items():
        allowed = STAGE_OBJECTIVES[stage]
        for name in names:
            objective = objectives[name]
            # one's own says what it needs when it is loaded (`own_code`), but a body that stays as it is has no choice
            if objective not in allowed and (objective in OURS or stage == "train_adapler_exits"):
                right = "train_adapler" if objective in REDUCING else "train_leebert"
                raise ValueError(
                    f"methods.{name}: stage {stage} trains {' and '.join(allowed)}, not objective: {objective}; list "
                    f"the method under trained_by.{right} (`full` is plain fine-tuning)"
                )


def check_reduction(
    trained_by: TrainedBy, token_scores: Sequence[str], pruned_body: str, explained: Sequence[str]
) -> None:
    """Refuse methods that remove tokens without what they are trained from, and explanations of what explains nothing.

    Parameters
    ----------
    token_scores, pruned_body
        Of the params.
    explained
        `explanations.methods`.

    Raises
    ------
    ValueError
        Names the key, what is allowed and what to add.
    """
    if len(set(token_scores)) < len(token_scores):
        raise ValueError(f"token_scores {list(token_scores)} repeat; name each kind once")
    if trained_by.train_adapler and "saliency" not in token_scores:
        raise ValueError(
            f"trained_by.train_adapler: {trained_by.train_adapler} learn from saliencies; add saliency to `token_scores` "
            f"(given: {list(token_scores)})"
        )
    bodies = trained_by.train_adapler
    if pruned_body and pruned_body not in bodies:
        raise ValueError(
            f"pruned_body {pruned_body!r} is no method of trained_by.train_adapler; allowed: {', '.join(bodies) or 'none'}"
            f"{nearest(pruned_body, bodies)}"
        )
    if trained_by.train_adapler_exits and not pruned_body:
        raise ValueError(
            f"trained_by.train_adapler_exits: {trained_by.train_adapler_exits} put exits on a model that removes tokens; "
            f"name it in `pruned_body`, a method of trained_by.train_adapler: {', '.join(bodies) or 'none is there yet'}"
        )
    allowed = ["full", *bodies, *trained_by.train_adapler_exits]
    for name in explained:
        if name not in allowed:
            raise ValueError(
                f"explanations.methods: {name!r} neither is `full` nor removes tokens; allowed: {', '.join(allowed)}"
                f"{nearest(name, allowed)}"
            )
    if len(set(explained)) < len(explained):
        raise ValueError(f"explanations.methods {list(explained)} repeat; name each method once")
