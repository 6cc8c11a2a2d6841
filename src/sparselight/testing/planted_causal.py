"""Planted features that cause predictions: a subject in which the effect of every edit is known in closed form.

Activations are those of a planted world (evaluate/planted), logits are linear in them: changing the magnitude of feature f by delta adds
delta * effects[:, f] to the logits, whatever else is there. `exact_sae` reads and writes the planted magnitudes. For no more features than dimensions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.evaluate.planted.config import PlantedConfig
from sparselight.evaluate.planted.subject import SITE as PLANTED
from sparselight.evaluate.planted.subject import PlantedSubject
from sparselight.protocols import Batch, Example
from sparselight.sae import Sae
from sparselight.subjects import ModuleSubject

CAUSAL_SITE = "stream:output"


class Readout(nn.Module):
    """x -> logits, linear."""

    def __init__(self, effects: Float[Tensor, "n_classes d_in"]):
        super().__init__()
        self.stream = nn.Identity()
        self.head = nn.Linear(effects.shape[1], effects.shape[0], bias=False)
        self.head.weight.data.copy_(effects)

    def forward(self, x: Float[Tensor, "row position d_in"]) -> Float[Tensor, "row position n_classes"]:
        return self.head(self.stream(x))


class CausalPlanted(ModuleSubject):
    """A planted world whose features cause predictions.

    Args:
        effects: what one unit of each feature adds to the logit of each class; the readout is the one of least norm that does so.
    """

    def __init__(self, config: PlantedConfig, effects: Float[Tensor, "n_classes feature"]):
        self.planted = PlantedSubject(config)
        self.directions = self.planted.world.directions
        readout = effects @ torch.linalg.pinv(self.directions.double()).T.float()

        def prepare(examples: Sequence[Example]) -> Batch:
            batch = self.planted.prepare(examples)
            x = self.planted.capture(batch, [PLANTED])[PLANTED]
            return Batch(batch.input_ids, batch.attention_mask, batch.counts, batch.example, batch.position, batch.token_id, batch.char_start, batch.char_end,
                         inputs={"x": x.view(*batch.counts.shape, -1)})

        self.readout = readout
        """logits = x @ readout^T."""
        super().__init__(Readout(readout), prepare, f"{self.planted.name}, with effects", "1", self.planted.examples("fit", n_tokens=1),
                         token_text=self.planted.token_text, predict=lambda logits, batch: logits[batch.counts])

    def exact_sae(self) -> Sae:
        """A dictionary whose latents are the planted features: encoding gives their magnitudes, up to noise and where directions are independent."""
        directions, bias = self.directions.double(), self.planted.world.bias
        sae = Sae(directions.shape[1], len(directions)).requires_grad_(False)
        sae.W_dec.copy_(directions.float())
        sae.W_enc.copy_(torch.linalg.pinv(directions).float())
        sae.b_dec.copy_(bias)
        sae.threshold.fill_(1e-3)
        return sae
