"""Benchmarks are no package that is installed: they are found from the root of the repository."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
