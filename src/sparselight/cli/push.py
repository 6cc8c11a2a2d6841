"""`sparselight push`: an SAE with a generated model card to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from sparselight.cli import options

EVALUATION = typer.Option("--evaluation", help="evaluation.json of a run: its measurements, controls included, go into the card.")
LICENSE = typer.Option("--license", help="License of the weights, as the hub spells it (apache-2.0); none is claimed where left out.")


def push(
    sae: Annotated[Path, typer.Argument(help="Folder of an SAE that was trained here.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made when it does not exist.")],
    path: Annotated[str | None, typer.Option("--path", help="Folder in the repository; the site's name where left out.")] = None,
    evaluation: Annotated[Path | None, EVALUATION] = None,
    license_name: Annotated[str | None, LICENSE] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the card and list the files; send nothing.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Publish an SAE: weights in a layout that SAELens reads too, its record, and a card written from it."""
    from sparselight.records import EvalRecord
    from sparselight.sae import load_sae
    from sparselight.sae.formats.publish import published_lines
    from sparselight.sae.formats.publish import push as publish

    measured = None if evaluation is None else EvalRecord.load(evaluation)
    done = publish(load_sae(sae), repository, path, measured, private=private, license_name=license_name, dry_run=dry_run)
    typer.echo(done.model_dump_json() if as_json else "\n".join([*([done.card] if dry_run else []), *published_lines(done)]))
