"""Chains of PDB and mmCIF files, and what is no structure."""

from pathlib import Path

import numpy as np
import pytest

from sparselight.corpus.protein.structure import read_chain
from sparselight.errors import ConfigError, CorpusError

pytest.importorskip("Bio", reason="structures are read by Biopython")
RESIDUES = ("MET", "LYS", "MSE", "GLY", "UNL")


def pdb(chains: dict[str, tuple[str, ...]]) -> str:
    lines, number = [], 0
    for name, residues in chains.items():
        for place, residue in enumerate(residues, 1):
            for atom, x in ((" N  ", 0.0), (" CA ", 1.5)):
                number += 1
                kind = "HETATM" if residue in ("MSE", "UNL") else "ATOM  "
                lines.append(f"{kind}{number:>5} {atom} {residue:>3} {name}{place:>4}    {x + 3.8 * place:8.3f}{float(place % 3):8.3f}{0.0:8.3f}"
                             f"{1.0:6.2f}{0.0:6.2f}          {atom.strip()[0]:>2}")
        lines.append("TER")
    lines.append(f"HETATM{number + 1:>5}  O   HOH A 900    {0.0:8.3f}{0.0:8.3f}{0.0:8.3f}{1.0:6.2f}{0.0:6.2f}           O")
    return "\n".join([*lines, "END", ""])


def test_the_longest_chain_or_the_one_named(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(pdb({"A": RESIDUES[:4], "B": (*RESIDUES, "TRP")}))
    chain = read_chain(tmp_path / "a.pdb")
    assert (chain.name, chain.sequence, chain.other_chains) == ("B", "MKMGXW", ["A"])
    np.testing.assert_allclose(chain.places[:, 0], 1.5 + 3.8 * np.arange(1, 7))
    assert read_chain(tmp_path / "a.pdb", "A").sequence == "MKMG"


def test_mmcif_is_read_alike(tmp_path: Path) -> None:
    from Bio import PDB

    (tmp_path / "a.pdb").write_text(pdb({"A": RESIDUES}))
    writer = PDB.MMCIFIO()
    writer.set_structure(PDB.PDBParser(QUIET=True).get_structure("a", str(tmp_path / "a.pdb")))
    writer.save(str(tmp_path / "a.cif"))
    first, second = (read_chain(tmp_path / name) for name in ("a.pdb", "a.cif"))
    assert first.sequence == second.sequence == "MKMGX"
    np.testing.assert_allclose(first.places, second.places)


def test_what_is_no_protein_structure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(pdb({"A": RESIDUES}))
    with pytest.raises(CorpusError, match="it has the protein chains A"):
        read_chain(tmp_path / "a.pdb", "Z")
    (tmp_path / "water.pdb").write_text(pdb({"A": ("MET",)}))
    with pytest.raises(CorpusError, match="no chain with 4"):
        read_chain(tmp_path / "water.pdb")
    (tmp_path / "text.cif").write_text("this is no structure")
    with pytest.raises(CorpusError):
        read_chain(tmp_path / "text.cif")
    with pytest.raises(ConfigError, match="the ending '.txt'"):
        read_chain(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="No such file"):
        read_chain(tmp_path / "none.pdb")
