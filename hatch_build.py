"""Build hook: compile the CPU kernels into a wheel or an editable installation.

Without a compiler, or with SPARSELIGHT_NO_COMPILE=1, the installation goes on without them: everything then runs on plain PyTorch.
"""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "src/sparselight/kernels/cpu"


class KernelBuild(BuildHookInterface):
    """Adds what was compiled to the wheel, which then belongs to one platform but to any version of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        kernels = runpy.run_path(str(Path(self.root) / FOLDER / "build.py"))
        outcome = kernels["build"]()
        for isa, why_not in outcome.items():
            if why_not is not None:
                self.app.display_warning(f"CPU kernels for {isa} were not compiled: {why_not}")
        made = [f"{FOLDER}/{kernels['library'](isa).name}" for isa, why_not in outcome.items() if why_not is None]
        if made:
            build_data["artifacts"] += made
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
