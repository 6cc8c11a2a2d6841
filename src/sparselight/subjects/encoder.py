"""An encoder as a subject: a model whose activations are studied and that predicts nothing, or nothing that is used.

Two ways to look at it: one vector a token at the standard sites, or, with pooling, one vector an example at the site `pooled` (sentence
encoders). With pooling, an example is one row that is cut at context_tokens, and counts as one token that covers its text. Refuses: loss,
predictions, edits; pooling that the model's files describe in a way that is not known here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.rows import RowBuilder

POOLED = "pooled"
POOLING_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_lasttoken": "last"}


class Encoder(HuggingFaceSubject):
    """An encoder with its tokenizer, as `protocols.Subject` without predictions.

    Args:
        settings: `pooling` other than none makes one vector an example of it; `auto` must have been resolved (`read_pooling`).
        normalize: scale pooled vectors to length 1.
    """

    kind = "encoder"

    def __init__(self, model: Any, tokenizer: Any, name: str, context_tokens: int | None = None, settings: TokenSettings | None = None,
                 normalize: bool = False):
        self._unit_pooled = normalize
        super().__init__(model, tokenizer, name, context_tokens, settings)

    def sites(self) -> list[str]:
        """`pooled` alone with pooling, else the standard sites."""
        return [POOLED] if self._is_pooled else super().sites()

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, or it holds no vector a position.
        """
        if not self._is_pooled:
            return super().d_site(site)
        if site != POOLED:
            raise SubjectError(asked=f"use the site {site!r}", why="this subject gives one vector an example",
                               instead="use 'pooled', or set subject.pooling = 'none'")
        return self._pooled_width

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations at the counted tokens, or the pooled vector of each example."""
        if not self._is_pooled:
            return super().capture(batch, sites)
        for site in sites:
            self.d_site(site)
        if not batch.n_tokens or not sites:
            return {site: torch.zeros(0, self._pooled_width, device=self.device) for site in sites}
        vectors = pool(self._forward(batch).last_hidden_state.float(), batch.attention_mask.to(self.device), self._tokens.policy.pooling)
        return {POOLED: torch.nn.functional.normalize(vectors, dim=-1) if self._tokens.policy.unit_pooled else vectors}

    @property
    def _is_pooled(self) -> bool:
        return self._tokens.policy.pooling != "none"

    def _make_rows(self, tokenizer: Any, settings: TokenSettings) -> RowBuilder:
        assert settings.pooling != "auto", "read_pooling says what it is"
        return RowBuilder(tokenizer, settings, is_causal=False, pooling=settings.pooling, unit_pooled=self._unit_pooled and settings.pooling != "none")

    def _check_output(self, output: Any) -> None:
        self._pooled_width = output.last_hidden_state.shape[-1]

    def _check_packing(self) -> None:
        raise SubjectError(asked=f"pack several examples into a row of {self.name} (subject.pack)", why="packing is for causal language models",
                           instead="set subject.pack = false; batches are made of examples of like length, so that little is padding")


def pool(hidden: Float[Tensor, "row position d_in"], seen: Bool[Tensor, "row position"], how: str) -> Float[Tensor, "row d_in"]:
    """One vector a row from the positions that are no padding, special tokens included, as sentence-transformers pools.

    mean: sum_t h_t / n; max: maximum over t in each dimension; cls, last: the first and the last such position.
    """
    if how == "mean":
        return (hidden * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
    if how == "max":
        return hidden.masked_fill(~seen[..., None], float("-inf")).amax(1)
    rows = torch.arange(len(hidden), device=hidden.device)
    index = torch.arange(seen.shape[1], device=hidden.device)
    at = torch.where(seen, index, seen.shape[1]).amin(1) if how == "cls" else torch.where(seen, index, -1).amax(1)
    return hidden[rows, at]


def read_pooling(folder: Path, asked: str) -> tuple[str, bool]:
    """How a sentence-transformers folder pools, and whether it scales the vectors to length 1.

    Raises:
        SubjectError: when there are no such files, or they describe something else.
    """
    instead = "set subject.pooling to mean, cls, max or last"
    missing = "there are no readable sentence-transformers files (modules.json, 1_Pooling) that say how"
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        pooling = next(module["path"] for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling")
        content = json.loads((folder / pooling / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        raise SubjectError(asked=asked, why=missing, instead=instead) from None
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise SubjectError(asked=asked, why=f"its files add a {unknown[0]} layer, which is not supported",
                           instead=f"{instead}, which leaves that layer out")
    chosen = [how for key, how in POOLING_MODES.items() if content.get(key)] or [str(content.get("pooling_mode", ""))]
    others = [key for key, value in content.items() if key.startswith("pooling_mode_") and value is True and key not in POOLING_MODES]
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES.values() or others:
        raise SubjectError(asked=asked, why=f"its files pool in a way that is not supported ({', '.join([*chosen, *others])})", instead=instead)
    return chosen[0], "Normalize" in kinds
