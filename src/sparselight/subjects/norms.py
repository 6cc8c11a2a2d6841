"""Massive activations: a few tokens whose norm is hundreds of times the usual one, which would rule an SAE's loss (Sun et al. 2024).

Owns: measuring a limit (a multiple of the median norm) and saying which tokens keep within it. The limit is an absolute number in the token
policy (`max_norms`), so that one token is treated alike in every batch; edits leave larger activations alone. Whoever stores or averages
activations leaves them out with `kept_tokens` and counts them.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Example, Subject
from sparselight.records import TokenPolicy
from sparselight.subjects.batching import batches_by_length


def norm_limits(subject: Subject, examples: Sequence[Example], sites: Sequence[str], ratio: float = 10.0, batch_tokens: int = 4096) -> dict[str, float]:
    """limit = ratio * median over all counted tokens of ||x||, at each site.

    Args:
        examples: a few hundred of the corpus are enough.

    Raises:
        SubjectError: when the examples hold no token.
    """
    norms: dict[str, list[Tensor]] = {site: [] for site in sites}
    for group in batches_by_length(subject.n_tokens(examples), batch_tokens):
        captured = subject.capture(subject.prepare([examples[index] for index in group]), list(sites))
        for site in sites:
            norms[site].append(captured[site].norm(dim=-1).cpu())
    if not all(norms.values()):
        raise SubjectError(asked="measure the norms of activations", why=f"the {len(examples)} examples hold no token",
                           instead="give examples with text in them")
    return {site: ratio * float(torch.cat(parts).median()) for site, parts in norms.items()}


def kept_tokens(captured: Mapping[str, Float[Tensor, "token d_in"]], policy: TokenPolicy) -> Bool[Tensor, " token"]:
    """Which tokens keep within the policy's limit at every captured site that has one."""
    first = next(iter(captured.values()))
    kept = torch.ones(len(first), dtype=torch.bool, device=first.device)
    for site, x in captured.items():
        if site in policy.max_norms:
            kept &= x.norm(dim=-1).to(kept.device) <= policy.max_norms[site]
    return kept
