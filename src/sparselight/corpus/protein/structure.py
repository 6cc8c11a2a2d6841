"""Protein structures: the residues of one chain with the place of their C-alpha atoms, from PDB and mmCIF files (Biopython parses).

Owns: which chain is read, the one-letter sequence (modified residues by their parent, others as X). Refuses: files without a protein chain, chains that are not
there, endings that are neither PDB nor mmCIF. Only the first model of a file is read.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sparselight.errors import ConfigError, CorpusError, MissingExtraError

PARSERS = {".pdb": "PDBParser", ".ent": "PDBParser", ".cif": "MMCIFParser", ".mmcif": "MMCIFParser"}
MIN_RESIDUES = 4


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain."""

    name: str
    sequence: str
    places: Float[np.ndarray, "residue xyz"]
    """Of the C-alpha atoms, in Angstrom."""
    other_chains: list[str]
    """Further protein chains of the file."""


def read_chain(path: Path, chain: str = "") -> Chain:
    """The chain of that name, or the longest one.

    Raises:
        CorpusError: when the file holds no protein, or not that chain.
        ConfigError: for another ending.
        MissingExtraError: without Biopython.
    """
    asked = f"read the structure {path}"
    if path.suffix.lower() not in PARSERS:
        raise ConfigError(asked=asked, why=f"the ending {path.suffix!r} is none of {', '.join(PARSERS)}", instead="give a PDB or mmCIF file, not compressed")
    try:
        from Bio import PDB
        from Bio.Data.PDBData import protein_letters_3to1_extended
        from Bio.PDB.PDBExceptions import PDBConstructionException
    except ImportError:
        raise MissingExtraError(package="biopython", extra="protein", asked="read structures") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the file leaves out; what is read is checked below
            models = getattr(PDB, PARSERS[path.suffix.lower()])(QUIET=True).get_structure(path.stem, str(path))
    except OSError as err:
        raise CorpusError(asked=asked, why=err.strerror or "it cannot be read", instead="give a file that can be read") from None
    except (PDBConstructionException, ValueError, KeyError, AttributeError) as err:
        raise CorpusError(asked=asked, why=f"it is no structure that Biopython reads ({err})", instead="give a PDB or mmCIF file") from None
    model: Any = next(iter(models), [])
    found = {one.id: [(protein_letters_3to1_extended.get(residue.get_resname().strip().upper(), "X"), residue["CA"].coord) for residue in one
                      if "CA" in residue and not residue.id[0].startswith("W")] for one in model}
    found = {name: residues for name, residues in found.items() if len(residues) >= MIN_RESIDUES}
    if not found or chain not in ("", *found):
        raise CorpusError(asked=f"{asked}{f', chain {chain}' if chain else ''}", why=f"it has the protein chains {', '.join(found)}" if found else
                          f"it has no chain with {MIN_RESIDUES} C-alpha atoms", instead="name one of them with --chain" if found else "give another file")
    name = chain or max(found, key=lambda one: len(found[one]))
    letters, places = zip(*found[name], strict=True)
    return Chain(name, "".join("X" if letter not in "ACDEFGHIKLMNPQRSTVWYUO" else letter for letter in letters), np.array(places, dtype=np.float64),
                 [other for other in found if other != name])
