"""What writers share: a folder that appears whole or not at all, and rewriting b_dec into the form that a format has.

Refuses to write over anything that is there.
"""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from sparselight.errors import SaeError
from sparselight.files import make_folder, write_error
from sparselight.sae.base import Sae


def cannot_write(form: str, why: str, instead: str) -> SaeError:
    return SaeError(asked=f"write this SAE as {form}", why=why, instead=instead)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes that name, on failure it is removed.

    Raises:
        SaeError: when something is there already.
        StoreError: when the disk is full or the place cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaeError(asked=f"write an SAE to {folder}", why="something is there already", instead="give a folder that does not exist, or remove that first")
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.new.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as err:
        raise write_error(folder, err) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@torch.no_grad()
def subtracting(sae: Sae) -> tuple[Sae, tuple[str, ...]]:
    """The same function in the form that subtracts b_dec from its input."""
    if sae.subtract_b_dec:
        return sae, ()
    sae = copy.deepcopy(sae)
    sae.b_enc.add_(sae.b_dec @ sae.W_enc)
    sae.subtract_b_dec = True
    return sae, ("the format subtracts b_dec from the input: b_dec @ W_enc was added to b_enc, so outputs stay the same up to rounding",)


def not_subtracting(sae: Sae) -> tuple[Sae, tuple[str, ...]]:
    """The same function in the form that does not."""
    if not sae.subtract_b_dec:
        return sae, ()
    return copy.deepcopy(sae).fold_centering(), (
        "the format does not subtract b_dec from the input: b_dec @ W_enc was taken from b_enc, so outputs stay the same up to rounding",)
