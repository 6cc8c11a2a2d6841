"""What is installed, what hardware is seen, and what is missing for what, with the command that mends it.

Owns: the report as data (`doctor`) and as text (`render_doctor`). It imports nothing of the pipeline, so that it works on the
installation that is broken; a package counts as installed when its metadata is there, and only PyTorch and the kernels are imported.
"""

import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
import webbrowser
from importlib import resources
from pathlib import Path

from sparselight import __version__
from sparselight.errors import SparselightError
from sparselight.records import Part

# What each dependency is for; a test compares the names with the package's metadata.
PURPOSES = {
    "torch": "models, training", "numpy": "arrays", "safetensors": "weights and activations on disk", "pyarrow": "tables on disk",
    "duckdb": "the catalogue of features", "pydantic": "configs and records", "typer": "the command line", "rich": "progress bars",
    "jinja2": "the report", "scipy": "statistics", "scikit-learn": "ICA, a control of evaluations", "jaxtyping": "shapes in signatures",
    "fsspec": "stores at URLs", "s3fs": "stores at s3:// addresses",
    "transformers": "language models as subjects (subject.source)", "tokenizers": "their tokenizers",
    "datasets": "Hugging Face datasets as corpora (corpus.root = \"hf://...\")",
    "pillow": "PNG and JPEG images of corpora (corpus.kind = \"image_text\")", "pydicom": "their DICOM images",
    "biopython": "UniProt flat files as corpora (corpus.kind = \"protein\")",
    "httpx2": "asking language models (explain --endpoint)",
    "fastapi": "the explorer (sparselight serve)", "uvicorn": "its server",
    "tensorboard": "curves of a training (train.log_to)",
    "cornac": "recommenders trained by Cornac as subjects (subjects.from_cornac)",
    "bm25s": "choosing domain text by BM25 (select.retrieve)", "faiss-cpu": "inner products of vectors (select.search = \"faiss\")",
}
# Extras that only combine others, that only people who work on sparselight need, or that few need and the refusal names (subject.quantize).
OTHER_EXTRAS = {"all", "dev", "large"}


class Package(Part):
    """One dependency."""

    name: str
    needed: str
    """Accepted versions, as the package's metadata states them."""
    version: str | None
    """Installed version; null when it is missing."""
    fits: bool
    extra: str | None
    """Extra that brings it; null for what every installation has."""
    purpose: str


class TorchReport(Part):
    """PyTorch as it is installed."""

    version: str
    build: str
    """`cpu`, or the platform that it was built for."""
    n_threads: int
    devices: list[str]
    """Accelerators that it can use, by name."""


class Hardware(Part):
    """What of this machine the process can use."""

    processor: str
    n_cores: int
    memory_bytes: int | None


class Problem(Part):
    """Something that some request would be refused for."""

    what: str
    fix: str


class DoctorReport(Part):
    """The whole answer; `sparselight doctor --json` prints it."""

    sparselight: str
    python: str
    executable: str
    system: str
    torch: TorchReport | None
    packages: list[Package]
    hardware: Hardware
    kernels: str
    """Implementation with which SAEs compute, and why not a faster one."""
    demo_subject: str | None
    """Folder of the model that ships with the package; null when this installation lacks it."""
    stdlib: str
    """Where the corpus of the demo lies."""
    n_stdlib_sources: int
    """Python source files in it."""
    browser: str | None
    """What would open a report; null when nothing would."""
    problems: list[Problem]


def doctor() -> DoctorReport:
    """Look at this installation and this machine; changes nothing."""
    packages, torch_report, problem = dependencies(), *look_at_torch()
    demo_subject, stdlib = find_demo_subject(), Path(sysconfig.get_paths()["stdlib"])
    n_sources = sum(1 for path in stdlib.rglob("*.py") if "site-packages" not in path.parts)
    problems = [*([problem] if problem else []), *package_problems(packages)]
    if demo_subject is None:
        problems.append(Problem(what="the demo subject is missing: `sparselight demo` has no model to study", fix="install a released wheel of sparselight"))
    if not n_sources:
        problems.append(Problem(what=f"no Python source in {stdlib}: the demo has no corpus", fix="use a Python that ships its library as source"))
    return DoctorReport(
        sparselight=__version__, python=platform.python_version(), executable=sys.executable, system=platform.platform(), torch=torch_report,
        packages=packages, hardware=look_at_hardware(), kernels=kernels_in_use(),
        demo_subject=str(demo_subject) if demo_subject else None, stdlib=str(stdlib), n_stdlib_sources=n_sources, browser=find_browser(), problems=problems,
    )


def dependencies(package: str = "sparselight") -> list[Package]:
    """All dependencies that the installed metadata names, those of every installation first."""
    found: dict[str, Package] = {}
    for line in importlib.metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        match = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if match is None or (extra and extra[1] in OTHER_EXTRAS):
            continue
        name, needed = match[0], requirement.strip()[match.end():].strip()
        version = installed_version(name)
        fits = version is not None and at_least(version, needed)
        found.setdefault(name, Package(name=name, needed=needed, version=version, fits=fits, extra=extra[1] if extra else None, purpose=PURPOSES.get(name, "")))
    return sorted(found.values(), key=lambda item: (item.extra is not None, item.extra or "", item.name))


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def at_least(version: str, needed: str) -> bool:
    """Whether a version reaches the lower bound of a requirement (`>=2.4`); pre-release tags are not looked at."""
    bound = re.search(r">=\s*([0-9.]+)", needed)
    return bound is None or _numbers(version) >= _numbers(bound[1])


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def package_problems(packages: list[Package]) -> list[Problem]:
    """One problem for every extra, or for the core, that lacks something."""
    problems = []
    for extra in dict.fromkeys(package.extra for package in packages):
        faulty = [package for package in packages if package.extra == extra and not package.fits]
        if faulty:
            names = ", ".join(f"{package.name} ({f'{package.version}, needs {package.needed}' if package.version else 'missing'})" for package in faulty)
            needed_for = "; ".join(dict.fromkeys(package.purpose for package in faulty if package.purpose))
            source = f"'sparselight[{extra}]'" if extra else "--upgrade sparselight"
            problems.append(Problem(what=f"{names}: {needed_for}", fix=f"pip install {source}"))
    return problems


def look_at_torch() -> tuple[TorchReport | None, Problem | None]:
    """PyTorch as it works here, or why it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as err:
        return None, Problem(what=f"PyTorch cannot be imported ({err})", fix="pip install --force-reinstall torch")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "cpu"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    return TorchReport(version=str(torch.__version__), build=build, n_threads=torch.get_num_threads(), devices=devices), None


def kernels_in_use() -> str:
    """The backend that encoding, decoding and training take here."""
    try:
        from sparselight.kernels import compiled, kernels
    except (ImportError, OSError) as err:
        return f"cannot be imported ({err})"
    try:
        name = kernels().name
    except SparselightError as err:
        return f"cannot run: {err}"
    if name == "compiled":
        return f"compiled ({compiled.description()})"
    why_not = compiled.available()
    return f"{name}, chosen by SPARSELIGHT_KERNELS" if why_not is None else f"{name} (pure PyTorch). The compiled ones are faster, but {why_not}"


def look_at_hardware() -> Hardware:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory: int | None = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        memory = None
    return Hardware(processor=processor_name(), n_cores=cores, memory_bytes=memory)


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())


def find_demo_subject() -> Path | None:
    folder = Path(str(resources.files("sparselight"))) / "assets" / "demo_subject"
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def find_browser() -> str | None:
    """What `webbrowser` would use, where a person could see it."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return None
    return str(getattr(browser, "name", type(browser).__name__))


def render_doctor(report: DoctorReport) -> str:
    """The report as lines of text."""
    torch, hardware = report.torch, report.hardware
    memory = f"{hardware.memory_bytes / 2**30:.1f} GiB" if hardware.memory_bytes else "memory unknown"
    accelerators = ", ".join(torch.devices) if torch and torch.devices else "none"
    lines = [
        f"sparselight   {report.sparselight}",
        f"Python        {report.python} ({report.executable})",
        f"system        {report.system}",
        f"PyTorch       {f'{torch.version}, {torch.build} build, {torch.n_threads} threads' if torch else 'cannot be imported'}",
        f"hardware      {hardware.processor}, {hardware.n_cores} cores, {memory}; accelerators: {accelerators}",
        f"kernels       {report.kernels}",
        f"demo subject  {report.demo_subject or 'missing'}",
        f"demo corpus   {report.stdlib}: {report.n_stdlib_sources:,} source files",
        f"browser       {report.browser or 'none found: reports are written, not opened'}",
        "", "packages",
    ]
    for package in report.packages:
        state = package.version or "missing"
        mark = "" if package.fits else f" (needs {package.needed or 'any version'})"
        source = f"[{package.extra}]" if package.extra else ""
        lines.append(f"  {package.name:<13} {state + mark:<16} {source:<12} {package.purpose}")
    lines.append("")
    lines += [f"problem: {problem.what}\n    fix: {problem.fix}" for problem in report.problems] or ["nothing is missing"]
    return "\n".join(lines)
