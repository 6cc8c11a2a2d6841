"""`sparselight convert`: an SAE from one library's format into another's, with every convention said and the outputs compared."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from torch import Tensor

    from sparselight.sae import Sae
    from sparselight.sae.formats.verify import Difference

SETTINGS = typer.Option("--set", metavar="NAME=VALUE", help="What the files of SOURCE leave unsaid, as a refusal asks for it (k=64); may be repeated.")
FORMAT = typer.Option("--to", metavar="FORMAT", help="Format to write: saelens, sparsify, dictionary_learning, gemma_scope, gemma_scope_2.")
VERIFY = typer.Option("--verify", help="Run both on the same vectors, and the libraries themselves where they are installed; exit code 1 if outputs differ.")


def convert(
    source: Annotated[str, typer.Argument(help="A folder or file, or hf://OWNER/NAME/PATH; FORMAT:PATH names its format where it is not recognized.")],
    target: Annotated[Path | None, typer.Argument(help="Folder to write; left out, SOURCE is only looked at.")] = None,
    to: Annotated[str, FORMAT] = "saelens",
    verify: Annotated[bool, VERIFY] = False,
    activations: Annotated[Path | None, typer.Option("--activations", help="More vectors for --verify: a .npy or .safetensors file, or a store.")] = None,
    overrides: Annotated[list[str] | None, SETTINGS] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Read an SAE in any format that is known, say what was assumed, and write it in another."""
    from sparselight.config import apply_overrides
    from sparselight.errors import ConfigError
    from sparselight.sae.formats import export_sae, load_sae

    if target is None and (verify or activations is not None):
        raise ConfigError(asked="verify a conversion", why="no folder to write was given", instead="give TARGET after SOURCE")
    settings = apply_overrides({}, overrides or [])
    sae = load_sae(source, **settings)
    said = export_sae(sae, target, to) if target is not None else []
    differences = differences_of(sae, source, target, to, activations) if target is not None and verify else []
    result: dict[str, Any] = {
        "source": source, "read": None if sae.imported is None else sae.imported.model_dump(mode="json"), "sae": repr(sae),
        "target": None if target is None else str(target), "format": None if target is None else to, "said": said,
        "differences": [difference.model_dump(mode="json") | {"equal": difference.equal} for difference in differences],
        "equal": all(difference.equal for difference in differences) if differences else None,
    }
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(render(sae, source, target, to, said, differences))
    if result["equal"] is False:
        raise typer.Exit(1)


def render(sae: "Sae", source: str, target: Path | None, to: str, said: list[str], differences: "list[Difference]") -> str:
    """The result as text for people."""
    from sparselight.cli.console import own_name

    lines = [repr(sae), *(sae.imported.lines() if sae.imported is not None else ["read as     saelens, with the record that training here left"])]
    if target is not None:
        lines += [f"written     {target} ({to})", *(f"note        {sentence}" for sentence in said)]
    lines += [f"{'equal' if difference.equal else 'DIFFERENT':<11} {difference.line()}" for difference in differences]
    if target is None:
        lines.append(f"next:       {own_name()} convert {source} OUT --to {to} --verify")
    return "\n".join(lines)


def differences_of(sae: "Sae", source: str, target: Path, to: str, activations: Path | None) -> "list[Difference]":
    """What reading back gives, and what the two formats' own libraries compute where they are installed."""
    import torch

    from sparselight.sae.formats import load_sae, open_place, split_source
    from sparselight.sae.formats.verify import compare_saes, compare_with_library, probe_vectors

    x = probe_vectors(sae)
    if activations is not None:
        x = torch.cat([x, read_activations(activations, sae)])
    found = [compare_saes(f"{target} read back", sae, load_sae(f"{to}:{target}"), x), compare_with_library(to, sae, target, x)]
    if sae.imported is not None and not sae.imported.source.startswith("hf://"):
        found.append(compare_with_library(sae.imported.format, sae, open_place(split_source(source)[1]).folder, x))
    return [difference for difference in found if difference is not None]


def read_activations(path: Path, sae: "Sae") -> "Tensor":
    """Vectors from a file or a store.

    Raises:
        ConfigError: when there are none of the SAE's width.
    """
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from sparselight.errors import ConfigError
    from sparselight.store import FolderStore

    asked = f"verify on the activations in {path}"
    try:
        if path.is_dir():
            store = FolderStore.open(path)
            sites = [site for site, width in store.manifest.sites.items() if width == sae.d_in]
            if len(sites) != 1:
                raise ConfigError(asked=asked, why=f"{len(sites)} of its sites have width {sae.d_in}", instead="give a store with one site of that width")
            return store.sample(4096, sites[0])
        found = [torch.from_numpy(np.load(path, allow_pickle=False))] if path.suffix == ".npy" else list(load_file(path).values())
    except (OSError, ValueError, SafetensorError) as err:
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(asked=asked, why=str(err).splitlines()[0], instead="give a .npy or .safetensors file, or a store") from None
    fitting = [rows.float() for rows in found if rows.ndim == 2 and rows.shape[1] == sae.d_in and rows.is_floating_point() and rows.isfinite().all()]
    if not fitting:
        raise ConfigError(asked=asked, why=f"it holds no finite matrix [token, {sae.d_in}]", instead="give activations of the site of the SAE")
    return torch.cat(fitting)
