"""All exits trained together: a weighted sum over exits of the mean task loss.

Early exit (EE), SWEET, PABEE, ElasticBERT and BERxiT are this sum; they differ in its weights (``weights``), in how far
each loss reaches (``gradient``) and in when it is taken (``alternate``). With a single exit it is plain fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining


class Joint(Objective):
    """Sum over exits of weight times task loss.

    ``weights: uniform`` are 1 each (sweet.md 1.3), ``depth`` the exit's layer over the sum of all exits' layers
    (pabee_leebert.md 1.2). With ``alternate``, steps 0, 2, 4, ... train the last exit alone (pabee_leebert.md 1.5).
    """

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.by_depth, self.alternate = method.weights == "depth", method.alternate
        self.weights: dict[int, float] = {}
        self.last, self.last_alone = 0, False

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Weigh the model's exits; see `Objective.attach`."""
        total = sum(model.exits)
        self.weights = {layer: layer / total if self.by_depth else 1.0 for layer in model.exits}
        self.last = model.exits[-1]

    def begin(self, step: int, total: int) -> None:
        """See `Objective.begin`."""
        self.last_alone = self.alternate and step % 2 == 0

    def exit_loss(self, answer: ExitAnswer, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`."""
        if self.last_alone and answer.layer != self.last:
            return answer.logits.new_zeros(())  # no gradient: what it alone trains rests in this step
        return self.weights.get(answer.layer, 1.0) * task_loss(answer.logits, labels_B)


OBJECTIVE = Joint
