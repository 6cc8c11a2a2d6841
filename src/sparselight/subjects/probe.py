"""Tiny forward passes that find out, at load time, what a model's sites hold and whether it is causal at all."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.subjects.hooks import capturing
from sparselight.subjects.site import Site

PROBE_IDS = ((0, 1, 2, 3), (0, 1, 2, 1))  # rows that differ in their last token only
PROBE_SHAPE = (2, 4)
SAME_FRAC = 0.05  # half precision stays far below this share of the logits' spread; a model that looks ahead far above


def probe_model(model: Any, sites: Sequence[Site], name: str) -> dict[str, int]:
    """Width of every site that one forward pass finds with one vector a position.

    Raises:
        SubjectError: when the predictions at early positions depend on a later token.
    """
    widths: dict[str, int] = {}

    def keep(site: Site, value: Tensor) -> Tensor:
        widths[site.name] = value.shape[-1]
        return value

    with torch.no_grad(), capturing(sites, PROBE_SHAPE, keep, stop=False):
        logits = _run(model).logits.float()
    difference = (logits[0, :-1] - logits[1, :-1]).abs().max()
    if difference > SAME_FRAC * (logits[0].std() + 1e-6):
        raise SubjectError(asked=f"study {name} as a causal language model", why="its predictions depend on tokens that come later",
                           instead="choose a model that predicts the next token only from those before it")
    return widths


def probe_site(model: Any, site: Site) -> int:
    """Width of one site.

    Raises:
        SubjectError: when the site holds anything but one vector a position, or its module runs more than once a pass.
    """
    widths: list[int] = []

    def keep(_site: Site, value: Tensor) -> Tensor:
        widths.append(value.shape[-1])
        return value

    with torch.no_grad(), capturing([site], PROBE_SHAPE, keep, stop=False):
        _run(model)
    if len(widths) > 1:
        raise SubjectError(asked=f"use the site {site.name!r}", why=f"that module runs {len(widths)} times in one forward pass",
                           instead="choose a module that runs once")
    return widths[0]


def _run(model: Any) -> Any:
    ids = torch.tensor(PROBE_IDS, device=next(model.parameters()).device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
