"""What cosines of random directions come to, exactly: the value beside which a maximum over many latents must be read.

The cosine t of two independent uniform directions in d dimensions has (1 + t) / 2 ~ Beta((d-1)/2, (d-1)/2), and cosines of one direction
with n others are independent, so the largest has the distribution F(t)^n. Nothing is simulated. Refuses nothing; needs d > 1.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import betainc

N_POINTS = 1 << 15  # of the trapezoid rule over [-1, 1] around where F^n rises; the error is far below 1e-6


def cosine_cdf(t: Float[np.ndarray, " point"] | float, d: int) -> Float[np.ndarray, " point"]:
    """F(t) = P(cosine <= t) of two random directions in d dimensions."""
    return betainc((d - 1) / 2, (d - 1) / 2, (1 + np.asarray(t, dtype=np.float64)) / 2)


def expected_max_cosine(d: int, n_others: int, *, absolute: bool = False, power: int = 1) -> float:
    """E[max^power] over the cosines (or their absolute values) of one random direction with n others in d > 1 dimensions.

    E[g(max)] = g(1) - integral of g'(t) F(t)^n dt over [-1, 1], for g(t) = t^power.
    """
    t = np.linspace(0 if absolute else -1, 1, N_POINTS * max(1, round(d**0.5) // 8))
    one = cosine_cdf(t, d)
    all_below = np.power(2 * one - 1 if absolute else one, n_others)
    height = power * t ** (power - 1) * all_below
    return float(1 - (height.sum() - (height[0] + height[-1]) / 2) * (t[1] - t[0]))
