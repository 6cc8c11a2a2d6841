"""How the sequences of a study are written: masks filled in and drawn again, or residue after residue from left to right.

Owns what each kind of subject needs and which settings it knows. Every arm has the same starts and seeds. Refuses: subjects that write neither way,
settings of the other way, starts that no protein is long enough for.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import ConfigError
from sparselight.intervene.generate import can_generate
from sparselight.intervene.unmask import unmask
from sparselight.protocols import EditFunction, Example, Subject
from sparselight.subjects import MaskedLM

if TYPE_CHECKING:
    from sparselight.intervene.sequence_study import SequenceSteerConfig

OF_MASKS = ("start", "order", "tokens_a_step", "sweeps")
"""Settings of subjects that fill in masks."""
OF_WRITERS = ("prompt",)
"""Settings of subjects that write from left to right."""


def check_writes(subject: Subject, config: "SequenceSteerConfig") -> None:
    """Refuse what the subject cannot do.

    Raises:
        ConfigError: naming the subject, or a setting that is not for it.
    """
    fills = isinstance(subject, MaskedLM)
    if not fills and not can_generate(subject):
        raise ConfigError(asked=f"write sequences with {subject.name}", why="it neither fills in masks nor writes from left to right",
                          instead="use a run on a masked_lm such as ESM-2, on a causal_lm, or on a module that continues texts")
    for name in OF_WRITERS if fills else OF_MASKS:
        if getattr(config, name) != type(config).model_fields[name].default:
            how = "fills in masks" if fills else "writes from left to right"
            raise ConfigError(asked=f"write sequences with steer.{name} = {getattr(config, name)!r}", why=f"{subject.name} {how}", instead="leave it out")


def settings_of(subject: Subject, config: "SequenceSteerConfig") -> dict[str, Any]:
    """The settings of a study without those that its subject does not use."""
    return config.model_dump(mode="json", exclude=set(OF_WRITERS if isinstance(subject, MaskedLM) else OF_MASKS))


def starts_of(subject: Subject, natural: Sequence[Example], config: "SequenceSteerConfig") -> list[str | int]:
    """One start a sequence, the same in every arm.

    Raises:
        ConfigError: when no natural protein is long enough.
    """
    if not isinstance(subject, MaskedLM):
        return [config.prompt] * config.n_sequences
    if config.start != "natural":
        return [config.length] * config.n_sequences
    long_enough = [example.text for example in natural if len(example.text) >= config.length]
    if not long_enough:
        raise ConfigError(asked="write sequences with steer.start = 'natural'", why=f"no natural protein has {config.length} residues to start from",
                          instead="give a smaller steer.length, or start from masks")
    rng = np.random.default_rng(config.seed)
    chosen = [long_enough[index] for index in rng.integers(0, len(long_enough), config.n_sequences).tolist()]
    return [text[start:start + config.length] for text, start in ((text, int(rng.integers(0, len(text) - config.length + 1))) for text in chosen)]


def write(subject: Any, starts: Sequence[str | int], edits: Sequence[Mapping[str, EditFunction]], config: "SequenceSteerConfig") -> list[str]:
    """One sequence a start; the edits take turns. Sequence i has the seed `config.seed + i` in every arm."""
    found: dict[int, str] = {}
    for turn, edit in enumerate(edits):
        own = list(range(turn, len(starts), len(edits)))
        seeds, begun = [config.seed + number for number in own], [starts[number] for number in own]
        if isinstance(subject, MaskedLM):
            texts = [sequence.text for sequence in unmask(
                subject, begun, edit, seeds=seeds, paired=True, order=config.order, temperature=config.temperature, tokens_a_step=config.tokens_a_step,
                sweeps=config.sweeps, allowed=AMINO_ACIDS, begin_with="random" if config.start == "random" else "masks")]
        else:
            texts = _continued(subject, [str(start) for start in begun], edit, seeds, config)
        found |= dict(zip(own, texts, strict=True))
    return [found[number] for number in range(len(starts))]


def _continued(subject: Any, starts: Sequence[str], edit: Mapping[str, EditFunction], seeds: Sequence[int], config: "SequenceSteerConfig") -> list[str]:
    """Up to `length` residues each; what is no amino acid (spaces, line ends, headers' marks) is left out."""
    written = subject.generate_many(starts, config.length - len(starts[0]), [edit] * len(starts), config.temperature, seeds)
    return ["".join(letter for letter in start + one.text if letter in AMINO_ACIDS)[:config.length] for start, one in zip(starts, written, strict=True)]
