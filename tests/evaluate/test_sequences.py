"""Sequences in numbers: Wilson's interval, entropy, low complexity, hydropathy, identity, pseudo-perplexity, and motif hits with their chance."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from sparselight.corpus.protein.prosite import PATTERNS
from sparselight.errors import ConfigError
from sparselight.evaluate.sequences import (
    composition,
    entropy_bits,
    has_motif,
    hydropathy,
    identity,
    low_complexity_frac,
    mean_identity,
    pseudo_perplexity,
    shuffled,
    summarize_sequences,
)
from sparselight.evaluate.statistics import wilson
from sparselight.protocols import Example
from sparselight.testing import tiny_family

ALL = "ACDEFGHIKLMNPQRSTVWY"
ZINC = "MYKCPECGKSFSQKSNLQKHQRTHTG"


@pytest.mark.parametrize(("hits", "n"), [(24, 180), (0, 10), (10, 10), (1, 3)])
def test_wilson_is_that_of_scipy(hits: int, n: int) -> None:
    ours, theirs = wilson(hits, n), binomtest(hits, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))
    with pytest.raises(ConfigError):
        wilson(0, 0)


def test_composition_and_entropy() -> None:
    assert composition("AAC").tolist()[:2] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert entropy_bits(ALL) == pytest.approx(math.log2(20))
    assert entropy_bits("AAAA") == 0
    assert entropy_bits("ACAC") == pytest.approx(1)
    assert low_complexity_frac("A" * 12 + ALL) == pytest.approx(21 / 32, abs=0.2)
    assert low_complexity_frac(ALL) == 0
    assert low_complexity_frac("AA") == 0


def test_hydropathy() -> None:
    assert hydropathy("IR") == pytest.approx(0)
    assert hydropathy("R" * 30 + "I" * 19 + "R" * 30, 19) == pytest.approx(4.5)
    assert hydropathy("", 19) == 0


def test_identity() -> None:
    assert identity("ACDE", "ACDF") == 0.75
    assert identity("AC", "ACDE") == 0.5
    assert mean_identity(["AC", "AC", "DE"]) == pytest.approx(1 / 3)
    assert math.isnan(mean_identity(["AC"]))


def test_pseudo_perplexity_is_the_masked_loss_of_each() -> None:
    subject = tiny_family("esm")
    found = pseudo_perplexity(subject, ["MKTAYIAKQR", "ACDEFGH"])  # type: ignore[arg-type]
    alone = subject.loss(subject.prepare([Example("a", "ACDEFGH", "a")]))  # type: ignore[attr-defined]
    assert found[1] == pytest.approx(math.exp(alone.double().mean().item()), rel=1e-4)


def test_low_complexity_is_no_hit() -> None:
    assert has_motif(ZINC, PATTERNS["zinc_finger_C2H2"])
    degenerate = "CCCCCCCCCCCCCCCCCCHHHHHHHHHH"
    assert not has_motif(degenerate, PATTERNS["zinc_finger_C2H2"])
    assert has_motif(degenerate, "C-x(2,4)-C-x(3)-C-x(8)-H-x(3,5)-H", 0.0)


def test_a_set_and_its_chance() -> None:
    rng = np.random.default_rng(0)
    plain = ["".join(rng.choice(list(ALL), 60)) for _ in range(20)]
    planted = [text[:20] + ZINC + text[46:] for text in plain]
    found = summarize_sequences([*planted, *plain], "zinc_finger_C2H2", n_shuffles=3)
    assert found.hit_frac.value == pytest.approx(0.5, abs=0.05)
    assert found.chance_frac.n == 120
    assert found.chance_frac.value < 0.05
    assert found.distinct_frac == 1
    assert math.isnan(found.pseudo_perplexity)
    assert sorted(shuffled(ZINC, rng)) == sorted(ZINC)
    for wrong in ([], ["", "A"]):
        with pytest.raises(ConfigError):
            summarize_sequences(wrong, "RGD")
