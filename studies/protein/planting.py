"""Plant a C2H2 zinc finger into a share of the proteins of three-line files: a motif whose every place is known, for a protocol with known truth.

    python studies/protein/planting.py --data DATA/tmbed --out runs/protein/planted --frac 0.1

Only cv_0N_a.fasta are read. An instance of `C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H` is written over residues whose label letter is 1 (not in a membrane,
no signal); its `x` residues are what stood there, so that nothing but the motif itself tells a planted protein. Which proteins, where and which instance
follows from the protein's header alone. `corpus.protein.patterns` finds the places again, natural ones too.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np

EXCLUDED = "blacklist.txt"  # ids that TMbed's authors leave out; the readers of these files do too
HYDROPHOBIC = "LIVMFYWC"
LONGEST = 26  # 1 + 4 + 1 + 3 + 1 + 8 + 1 + 5 + 1, and one to spare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frac", type=float, default=0.1)
    chosen = parser.parse_args()
    print(f"{plant_files(chosen.data, chosen.out, chosen.frac):,} proteins carry a planted zinc finger")


def plant_files(data: Path, out: Path, frac: float) -> int:
    """Write the folds with planted motifs; returns how many proteins carry one."""
    out.mkdir(parents=True, exist_ok=True)
    n = 0
    for path in sorted(data.glob("cv_0*_a.fasta")):
        lines = path.read_text(encoding="utf-8").split("\n")
        for at in range(0, len(lines) - 2, 3):
            planted = plant(lines[at], lines[at + 1], lines[at + 2], frac)
            n += planted != lines[at + 1]
            lines[at + 1] = planted
        (out / path.name).write_text("\n".join(lines), encoding="utf-8")
    shutil.copyfile(data / EXCLUDED, out / EXCLUDED)
    return n


def plant(header: str, sequence: str, labels: str, frac: float) -> str:
    """The sequence with a motif in it, if its id says so and it has room."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(header.encode()).digest()[:8], "big"))
    room = [start for start in range(len(sequence) - LONGEST) if set(labels[start:start + LONGEST]) == {"1"}]
    if rng.random() >= frac or not room:
        return sequence
    start = int(rng.choice(room))
    first, last = int(rng.integers(2, 5)), int(rng.integers(3, 6))
    residues = list(sequence)
    for offset, letter in ((0, "C"), (first + 1, "C"), (first + 5, str(rng.choice(list(HYDROPHOBIC)))), (first + 14, "H"), (first + 15 + last, "H")):
        residues[start + offset] = letter
    return "".join(residues)


if __name__ == "__main__":
    main()
