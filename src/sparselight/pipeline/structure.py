"""A latent of a run on a protein's structure: the chain's sequence goes through the run's subject and SAE, and the trace is drawn colored by activation.

Owns nothing else. The sequence is that of the residues that have a place in the file, so residues that were not resolved are not seen by the model either.
"""

from pathlib import Path

import numpy as np
import torch

from sparselight.corpus.protein.structure import read_chain
from sparselight.errors import ConfigError
from sparselight.files import write_bytes
from sparselight.pipeline.opened import open_run
from sparselight.protocols import Example
from sparselight.records import Part
from sparselight.report.structure_figure import structure_figure


class StructureView(Part):
    """What was drawn."""

    feature: str
    structure: str
    chain: str
    other_chains: list[str]
    n_residues: int
    n_active: int
    largest: float
    residues: list[str]
    """The most active ones, such as `L12`, the strongest first."""
    picture: str


@torch.no_grad()
def view_structure(run: str | Path, feature: str | int, structure: str | Path, out: str | Path, chain: str = "") -> StructureView:
    """Draw one latent on one chain.

    Raises:
        CorpusError: when the file holds no such protein chain.
        ConfigError: for a feature that the run does not have, and chains that do not fit into one row of the subject.
    """
    opened, path = open_run(run), Path(structure)
    source, latent = opened.latent(feature)
    protein, subject = read_chain(path, chain), opened.subject
    batch = subject.prepare([Example(path.stem, protein.sequence, path.stem)])
    if batch.n_tokens != len(protein.sequence):
        raise ConfigError(asked=f"show {source}/{latent} on chain {protein.name} of {path}", why=f"the subject sees {batch.n_tokens} tokens of its "
                          f"{len(protein.sequence)} residues", instead="use a subject with one token a residue, and a chain that fits into its context")
    codes = opened.sae(source).encode(subject.capture(batch, [opened.site])[opened.site].float().cpu())
    activations = np.zeros(batch.n_tokens)
    activations[batch.position.numpy()] = codes.to_dense()[:, latent].cpu().numpy()
    card = next((one for one in opened.cards if (one.source, one.latent) == (source, latent)), None)
    said = f": {card.explanation.text}" if card and card.explanation else ""
    order = [int(index) for index in np.argsort(-activations, kind="stable")[:10] if activations[index] > 0]
    write_bytes(Path(out), structure_figure(
        f"{source}/{latent}{said}", f"{path.name}, chain {protein.name}: {len(protein.sequence)} residues, {int((activations > 0).sum())} active",
        protein.sequence, protein.places, activations.tolist()).encode())
    return StructureView(
        feature=f"{source}/{latent}", structure=str(path), chain=protein.name, other_chains=protein.other_chains, n_residues=len(protein.sequence),
        n_active=int((activations > 0).sum()), largest=float(activations.max(initial=0.0)), picture=str(out),
        residues=[f"{protein.sequence[index]}{index + 1}" for index in order])
