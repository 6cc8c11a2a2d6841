"""Tiny forward passes that find out, at load time, what a model's sites hold and whether it does with rows what the token policy says."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.subjects.hooks import capturing, holds_vectors, noting
from sparselight.subjects.site import Site

PROBE_IDS = ((0, 1, 2, 3), (0, 1, 2, 1))  # rows that differ in their last token only
PLAIN_IDS = (4, 5, 6, 7)  # no vocabulary has its padding here
SAME_FRAC = 0.05  # half precision stays far below this share of the outputs' spread; tokens that see what they must not see go far above

# Runs the model on input ids, attention mask (or None) and position ids (or None).
RunRows = Callable[[Tensor, Tensor | None, Tensor | None], Any]


class Probe:
    """A tiny forward pass of fixed shape."""

    def __init__(self, run: Callable[[], Any], shape: tuple[int, int]):
        self.run, self.shape = run, shape

    def values(self, sites: Sequence[Site]) -> tuple[dict[Site, Tensor], Any]:
        """What each site holds, for those that the pass comes to once and that hold one vector a position; and the model's output."""
        seen: dict[Site, Tensor] = {}
        twice: set[Site] = set()

        def note(site: Site, value: Any) -> None:
            if site in seen:
                twice.add(site)
            elif holds_vectors(value, self.shape):
                seen[site] = value.detach().view(*self.shape, -1).clone()

        with torch.no_grad(), noting(sites, note):
            output = self.run()
        return {site: value for site, value in seen.items() if site not in twice}, output

    def width(self, site: Site) -> int:
        """Width of one site.

        Raises:
            SubjectError: when the site holds anything but one vector a position, or its module runs more than once a pass.
        """
        widths: list[int] = []

        def keep(_site: Site, value: Tensor) -> Tensor:
            widths.append(value.shape[-1])
            return value

        with torch.no_grad(), capturing([site], self.shape, keep, stop=False):
            self.run()
        if len(widths) > 1:
            raise SubjectError(asked=f"use the site {site.name!r}", why=f"that module runs {len(widths)} times in one forward pass",
                               instead="choose a module that runs once")
        return widths[0]


def check_causal(logits: Tensor, name: str) -> None:
    """Refuse a model whose predictions for the rows of PROBE_IDS differ before the last token.

    Raises:
        SubjectError: when they do.
    """
    difference = (logits[0, :-1] - logits[1, :-1]).abs().max()
    if difference > SAME_FRAC * (logits[0].std() + 1e-6):
        raise SubjectError(asked=f"study {name} as a causal language model", why="its predictions depend on tokens that come later",
                           instead="choose a model that predicts the next token only from those before it")


@torch.no_grad()
def left_padding_positions(run: RunRows, pad_id: int, device: torch.device, name: str) -> bool:
    """Whether rows that are padded on the left need position ids given to come out as they do alone.

    Args:
        run: gives [row, position, d] outputs.

    Raises:
        SubjectError: when they come out otherwise either way.
    """
    ids = torch.tensor([PLAIN_IDS], device=device)
    alone = run(ids, torch.ones_like(ids), None)[0]
    padded, mask = torch.nn.functional.pad(ids, (3, 0), value=pad_id), torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    for positions in (None, (mask.cumsum(-1) - 1).clamp(min=0)):
        try:
            shifted = run(padded, mask, positions)[0, 3:]
        except TypeError:  # this model takes no position ids
            continue
        if _alike(shifted, alone):
            return positions is not None
    raise SubjectError(asked=f"pad rows of {name} on the left (subject.padding_side)", why="its activations depend on where a row begins",
                       instead="set subject.padding_side = 'right'")


@torch.no_grad()
def check_packing(run: RunRows, device: torch.device, name: str) -> None:
    """Refuse packed rows where examples in one row see each other, or padding.

    Raises:
        SubjectError: when they do.
    """
    first, second = (torch.tensor([row], device=device) for row in (PLAIN_IDS[:3], PLAIN_IDS[::-1]))
    alone = [run(ids, torch.ones_like(ids), None)[0] for ids in (first, second)]
    packed = torch.cat([first, second, torch.zeros(1, 2, dtype=torch.int64, device=device)], dim=1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1]], device=device)
    try:
        together = run(packed, None, positions)[0]
        holds = _alike(together[:3], alone[0]) and _alike(together[3:7], alone[1])
    except TypeError:
        holds = False
    if not holds:
        raise SubjectError(asked=f"pack several examples into a row of {name} (subject.pack)", why="in this model, examples in one row would see each other",
                           instead="set subject.pack = false; batches are made of examples of like length, so that little is padding")


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a.float() - b.float()).abs().max() <= SAME_FRAC * (b.float().std() + 1e-6))
