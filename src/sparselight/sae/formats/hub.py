"""SAEs on the Hugging Face Hub: `hf://OWNER/NAME[/PATH][@REVISION]`.

Downloads one SAE's files and the small settings files above it, at one commit, into the library's own cache; without a network what the
cache has is used. Refuses: a repository of several SAEs without a path (it lists them), paths that lead out of a repository, and, in one
line, a hub that cannot be reached.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sparselight.errors import MissingExtraError, SaeError
from sparselight.sae.formats.place import WEIGHT_SUFFIXES

HUB = "hf://"
# Of a training run, not of the SAE: never downloaded.
LEFT = re.compile(r"(^|/)(optimizer|lr_scheduler|trainer_state|state|rank_\d+_state|checkpoints/ae_)[^/]*\.(pt|pth|safetensors)$|\.dcp(/|$)")
# Weight files that stand for a whole folder; in any other folder each weight file is an SAE of its own.
WHOLE = {"sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors", "final.safetensors"}
SETTINGS = (".json", ".yaml", ".yml")
N_SHOWN = 12


class Address(NamedTuple):
    """Where on the hub."""

    repository: str
    path: str
    revision: str | None

    def __str__(self) -> str:
        return f"{HUB}{self.repository}{'/' if self.path else ''}{self.path}{f'@{self.revision}' if self.revision else ''}"


def parse_address(source: str) -> Address:
    """`hf://OWNER/NAME[/PATH][@REVISION]`.

    Raises:
        SaeError: when it is not of that form, or its path has `..` or empty parts.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)((?:/[^@]+)?)/?(?:@([\w./-]+))?", source)
    path = match[2].strip("/") if match else ""
    if match is None or any(part in ("", ".", "..") for part in path.split("/") if path):
        raise SaeError(asked=f"load the SAE {source}", why="it is not of the form hf://OWNER/NAME/PATH@REVISION (path and revision may be left out)",
                       instead="write for example hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    return Address(match[1], path, match[3])


def hub_library(asked: str) -> Any:
    """huggingface_hub, imported when it is first needed.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(package="huggingface_hub", extra="text", asked=asked) from None
    return huggingface_hub


def fetch(source: str) -> tuple[Path, str]:
    """Where the files of one SAE lie on this machine, and the address with its commit."""
    address, asked = parse_address(source), f"load the SAE {source}"
    library = hub_library(asked)
    try:
        info = library.HfApi().repo_info(address.repository, revision=address.revision)
    except Exception as err:
        cached = from_cache(library, address)
        if cached is None:
            raise hub_error(asked, err) from None
        return cached, str(address)
    names = wanted([sibling.rfilename for sibling in info.siblings or []], address, asked)
    try:
        root = download(library, address.repository, names, address.revision) or download(library, address.repository, names, info.sha)
    except Exception as err:
        raise hub_error(asked, err) from None
    assert root is not None
    return root / address.path, str(address._replace(revision=root.name))


def download(library: Any, repository: str, names: list[str], revision: str | None) -> Path | None:
    """The folder of one commit in the cache, None where the revision moved on between two files.

    Asked for by the user's own revision, so that the cache knows later, without a network, what that was.
    """
    files = [Path(library.hf_hub_download(repository, name, revision=revision)) for name in names]
    roots = {file.parents[len(PurePosixPath(name).parts) - 1] for file, name in zip(files, names, strict=True)}
    return roots.pop() if len(roots) == 1 else None


def from_cache(library: Any, address: Address) -> Path | None:
    """What an earlier download left, where there is no network."""
    try:
        root = library.snapshot_download(address.repository, revision=address.revision, local_files_only=True)
    except Exception:
        return None
    path = Path(root) / address.path
    return path if path.exists() else None


def wanted(names: list[str], address: Address, asked: str) -> list[str]:
    """The files of one SAE: what lies at the path, and settings files above it.

    Raises:
        SaeError: when nothing lies there, or several SAEs do.
    """
    names = sorted(name for name in names if not LEFT.search(name))
    if any(".." in name.split("/") or name.startswith("/") for name in names):
        raise SaeError(asked=asked, why="the repository lists files outside of itself", instead="use another repository")
    prefix = f"{address.path}/" if address.path else ""
    below = [name for name in names if name == address.path or name.startswith(prefix)]
    weights = [name for name in below if name.endswith(WEIGHT_SUFFIXES)]
    if not weights:
        holds = ", ".join(sorted({name.split("/")[0] for name in names})[:N_SHOWN]) or "nothing"
        raise SaeError(asked=asked, why=f"no weights lie there; the repository holds {holds}", instead=f"give a path in it: {HUB}{address.repository}/PATH")
    saes = list(dict.fromkeys(whole(name) for name in weights))
    if len(saes) > 1:
        more = f" and {len(saes) - N_SHOWN} more" if len(saes) > N_SHOWN else ""
        shown = ", ".join(saes[:N_SHOWN]) + more
        raise SaeError(asked=asked, why=f"{len(saes)} SAEs lie there: {shown}", instead=f"give one: {HUB}{address.repository}/{saes[0]}")
    above = {str(parent) for parent in PurePosixPath(saes[0]).parents} | {saes[0]}
    settings = [name for name in names if name.endswith(SETTINGS) and str(PurePosixPath(name).parent) in above]
    beside = [name for name in below if name.startswith(f"{saes[0]}/") or name == saes[0]] if saes[0] != "." else [name for name in below if "/" not in name]
    return sorted({*weights, *beside, *settings})


def whole(name: str) -> str:
    """The folder that a weight file stands for, or the file itself."""
    path = PurePosixPath(name)
    if path.name not in WHOLE and not path.name.startswith("activation_whitening") and path.name != "sparsity.safetensors":
        return name
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return str(folder)


def hub_error(asked: str, err: Exception) -> SaeError:
    """The library's many errors in one line."""
    kinds = {base.__name__ for base in type(err).__mro__}
    first = (str(err).strip().splitlines() or [type(err).__name__])[0]
    if "LocalEntryNotFoundError" not in kinds and kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "GatedRepoError"}:
        return SaeError(asked=asked, why=f"the hub does not give it ({first})",
                        instead="check the name and the revision, or log in with `hf auth login` where it is private")
    if kinds & {"HfHubHTTPError", "HTTPStatusError", "LocalTokenNotFoundError"}:
        return SaeError(asked=asked, why=f"the hub refuses ({first})", instead="log in with `hf auth login`, or try again later")
    return SaeError(asked=asked, why=f"the Hugging Face Hub cannot be reached ({type(err).__name__})",
                    instead="connect to the network, use files that were downloaded before, or give a local path")
