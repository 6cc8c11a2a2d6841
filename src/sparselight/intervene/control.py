"""Control latents: a random latent that fires about as often as the one under study.

What an edit of the control does is what an edit of any latent of that frequency does; only the difference speaks for the feature.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from sparselight.errors import SaeError
from sparselight.records import Card

N_NEAREST = 10


def fire_rates(cards: Iterable[Card], source: str) -> dict[int, float]:
    """Firing rate on general held-out tokens of every latent of one SAE, by latent."""
    return {card.latent: card.fire_rate for card in cards if card.source == source}


def pick_control(rates: Mapping[int, float], latent: int, seed: int, n_nearest: int = N_NEAREST) -> int:
    """Draw one of the `n_nearest` other latents whose firing rate is nearest to that of `latent`, on a log scale.

    Latents that never fire are left out: editing them would change nothing and flatter every feature. A latent whose own rate is 0
    is compared as if it fired as seldom as the rarest of the others.

    Args:
        rates: firing rate by latent, of one SAE and one set of tokens.

    Raises:
        SaeError: when no other latent fires.
    """
    others = np.array([other for other, rate in sorted(rates.items()) if rate > 0 and other != latent], dtype=np.int64)
    if not len(others):
        raise SaeError(asked=f"draw a control for latent {latent}", why="no other latent of its SAE fires on these tokens",
                       instead="train longer, or measure firing rates on more tokens")
    logs = np.log([rates[int(other)] for other in others])
    own = math.log(rates[latent]) if rates.get(latent, 0.0) > 0 else float(logs.min())
    nearest = np.argsort(np.abs(logs - own), kind="stable")[:n_nearest]
    rng = np.random.default_rng([seed, latent])
    return int(others[rng.choice(nearest)])
