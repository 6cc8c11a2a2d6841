"""Where an SAE came from, in one set of words, whether it was trained here or read from a foreign file."""

from typing import Any

from sparselight.sae.base import Sae


def origin(sae: Sae) -> dict[str, Any]:
    """Model, site, target_site, context_tokens, prepend_bos, k, l0, n_dead, as far as they are known."""
    if sae.record is None:
        return {} if sae.imported is None else dict(sae.imported.facts)
    record, policy = sae.record, sae.record.subject.token_policy
    known = {
        "model": record.subject.name, "site": record.site, "target_site": record.target_site, "context_tokens": policy.context_tokens,
        "prepend_bos": policy.prepend_bos, "k": record.k, "l0": record.l0, "n_dead": record.n_dead, "architecture": record.architecture,
    }
    return {name: value for name, value in known.items() if value is not None}

