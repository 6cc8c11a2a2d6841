"""Steer features of the demo language model beside baselines: `python studies/steering/run.py runs/demo`.

Which features is fixed before anything is steered: supported cards of word, token and piece labels, shuffled by the seed, one a label. The goal of each
does not come from the SAE: it is what follows the card's label in training text (`following_tokens`). The difference of means is taken twice: between tokens
before the goal and all others (what reaches the goal most directly), and between tokens that carry the label and all others (what the latent itself knows).
Every study is kept in --out and not done again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparselight.interpret import is_supported
from sparselight.intervene.baselines import TextSample
from sparselight.intervene.goal_forms import following_tokens, named
from sparselight.intervene.goals import LabelGoal, TokenGoal
from sparselight.intervene.study import steer_study
from sparselight.intervene.study_setting import Setting, SteerConfig
from sparselight.pipeline.steer_place import Place
from sparselight.protocols import Example, Subject
from sparselight.records import Card

FAMILIES = ("word", "token", "piece")
MIN_RATE = 1e-3  # a share of tokens: rarer features fire too seldom in the sample for a label to be followed by anything
N_FEATURES = {"base": 10, "residual": 4}
WITH_TEXT = 2  # base features, the first of them, for which text is generated too


@dataclass(frozen=True)
class LabelledGoal(TokenGoal):
    """The same goal, whose difference of means is taken where a label is."""

    label: str = ""

    def present(self, subject: Subject, examples: Sequence[Example]) -> np.ndarray:
        return LabelGoal(self.label).present(subject, examples)


def chosen_cards(place: Place, source: str, n: int, seed: int) -> list[Card]:
    """Supported cards with a label of the text itself, in random order, no label twice."""
    cards = [card for card in place.cards if card.source == source and is_supported(card) and max(card.fire_rate, card.domain_fire_rate) >= MIN_RATE
             and card.explanation and card.explanation.label.partition("=")[0] in FAMILIES]
    found: dict[str, Card] = {}
    for index in np.random.default_rng(seed).permutation(len(cards)).tolist():
        label = cards[index].explanation.label if cards[index].explanation else ""
        found.setdefault(label.partition("=")[2].strip().lower(), cards[index])
    return list(found.values())[:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished demo run")
    parser.add_argument("--out", type=Path, default=Path("runs/steering"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one feature an SAE, little text")
    arguments = parser.parse_args()
    place, seed = Place(arguments.run), arguments.seed
    config = SteerConfig(n_random=3, sample_tokens=30_000, general_tokens=1_500, n_tokens=30, n_seeds=2, seed=seed)
    if arguments.quick:
        config = config.model_copy(update={"sample_tokens": 6_000, "general_tokens": 300, "n_bootstrap": 500, "n_random": 1, "max_doublings": 3})
    subject, site = place.subject, place.site
    fit, general = place.fit_sample(config.sample_tokens, seed), place.general_sample(config.general_tokens, seed)
    batch = subject.prepare(fit)
    for source, n in N_FEATURES.items():
        sae = place.run.sae(source)
        sample = TextSample.take(subject, sae, site, fit)
        for number, card in enumerate(chosen_cards(place, source, 1 if arguments.quick else n, seed)):
            folder = arguments.out / f"{source}-{card.latent}"
            if (folder / "steering.json").is_file():
                continue
            assert card.explanation is not None
            carries = LabelGoal(card.explanation.label).present(subject, fit)
            if not carries.any():
                print(f"{card.key} {card.explanation.label}: its label does not occur in the sample, left out", flush=True)
                continue
            ids = following_tokens(batch.token_id.numpy(), batch.example.numpy(), carries)
            title = f"next token {named(subject, ids)} (what follows {card.explanation.text} in text)"
            with_text = source == "base" and number < WITH_TEXT and not arguments.quick
            setting = Setting(subject, sae, site, source, card.latent, TokenGoal(ids, title), fit, general, tuple(place.prompts(seed)) if with_text else (),
                              card.explanation.text, annotate=place.annotate)
            study = steer_study(setting, config, sample=sample)
            by_label = replace(setting, goal=LabelledGoal(ids, title, card.explanation.label), prompts=())
            other = steer_study(by_label, config.model_copy(update={"baselines": ["difference of means"]}), sample=sample)
            folder.mkdir(parents=True, exist_ok=True)
            other.save(folder / "by_label.json")
            study.save(folder / "steering.json")
            print(f"{card.key} {card.explanation.label}: {study.beats}, by label {other.beats}", flush=True)


if __name__ == "__main__":
    main()
