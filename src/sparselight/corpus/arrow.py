"""Examples as Arrow: the columns in which a corpus is saved, and a sequence of examples that stays on disk.

Owns: the schema, batches of examples, and `SpooledExamples`: a temporary Arrow file under TMPDIR, memory-mapped and gone with the process,
from which each example is made when it is asked for. Memory then grows by a few bytes an example, whatever the length of the texts.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from sparselight.files import write_error
from sparselight.protocols import Box, Example, Image, Span

BATCH = 256  # examples; reading one maps its batch, so large ones cost time
SPAN_FIELDS = {"start": pa.int64(), "end": pa.int64(), "name": pa.string(), "value": pa.string(), "instance": pa.string()}
SPAN_TYPE = pa.list_(pa.struct(list(SPAN_FIELDS.items())))
SCHEMA = pa.schema([("id", pa.string()), ("group", pa.string()), ("text", pa.large_string()), ("labels", pa.string()), ("spans", SPAN_TYPE)])
BOX_FIELDS = {**dict.fromkeys(("x0", "y0", "x1", "y1"), pa.float64()), "name": pa.string(), "value": pa.string()}
BOX_TYPE = pa.list_(pa.struct(list(BOX_FIELDS.items())))
IMAGE_TYPE = pa.list_(pa.struct([("path", pa.string()), ("sha256", pa.string()), ("name", pa.string()), ("boxes", BOX_TYPE)]))
IMAGES_SCHEMA = SCHEMA.append(pa.field("images", IMAGE_TYPE))  # of corpora that have some


def example_batches(examples: Iterable[Example], size: int = BATCH, schema: pa.Schema = SCHEMA) -> Iterator[pa.RecordBatch]:
    """Examples as record batches of SCHEMA or IMAGES_SCHEMA; labels are JSON."""
    stream = iter(examples)
    while batch := list(islice(stream, size)):
        spans = [[{name: getattr(span, name) for name in SPAN_FIELDS} for span in example.spans] for example in batch]
        labels = [json.dumps(example.labels, sort_keys=True) for example in batch]
        columns = [[example.id for example in batch], [example.group for example in batch], [example.text for example in batch], labels, spans]
        if "images" in schema.names:
            columns.append([[asdict(image) for image in example.images] for example in batch])
        yield pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def schema_of(examples: Sequence[Example]) -> pa.Schema:
    """The schema that holds all that the examples have."""
    with_images = examples.has_images if isinstance(examples, SpooledExamples) else any(example.images for example in examples)
    return IMAGES_SCHEMA if with_images else SCHEMA


def example_of(row: Mapping[str, Any]) -> Example:
    """The example of a row; corpora that were saved before spans were kept have none, and older spans no instance."""
    spans = tuple(Span(span["start"], span["end"], span["name"], span["value"], span.get("instance") or "") for span in row.get("spans") or ())
    images = tuple(Image(image["path"], image["sha256"], image["name"], tuple(Box(**box) for box in image["boxes"])) for image in row.get("images") or ())
    return Example(row["id"], row["text"], row["group"], json.loads(row["labels"]), spans, images)


class SpooledExamples(Sequence[Example]):
    """A sequence of examples in a temporary file. Slices and `pick` are views of the same file."""

    def __init__(
        self, file: pa.ipc.RecordBatchFileReader, index: Int[np.ndarray, " example"], groups: Mapping[int, str], has_images: bool = False,
    ):
        self._file, self._index, self._groups = file, index, groups
        self.has_images = has_images  # whether any example of the file has one
        self._mapped: tuple[int, pa.RecordBatch] | None = None

    @classmethod
    def write(cls, examples: Iterable[Example]) -> "SpooledExamples":
        """Spool a stream of examples.

        Raises:
            StoreError: when the folder for temporary files is full.
        """
        handle, name = tempfile.mkstemp(prefix="sparselight-corpus-", suffix=".arrow")
        os.close(handle)
        path, n, n_images = Path(name), 0, 0
        try:
            with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, IMAGES_SCHEMA) as writer:
                for batch in example_batches(examples, schema=IMAGES_SCHEMA):
                    writer.write_batch(batch)
                    n, n_images = n + len(batch), n_images + len(batch.column("images").flatten())
            return cls(pa.ipc.open_file(pa.memory_map(name)), np.arange(n), {}, n_images > 0)
        except OSError as err:
            raise write_error(path, err) from err
        finally:
            path.unlink()  # the mapping keeps the content until it is no longer used

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "SpooledExamples": ...
    def __getitem__(self, index: int | slice) -> "Example | SpooledExamples":
        if isinstance(index, slice):
            return SpooledExamples(self._file, self._index[index], self._groups, self.has_images)
        row = int(self._index[index])
        number, offset = divmod(row, BATCH)
        mapped = self._mapped  # looked at once: another thread may ask for another batch meanwhile
        if mapped is None or mapped[0] != number:
            mapped = self._mapped = (number, self._file.get_batch(number))
        batch = mapped[1]
        fields = {name: batch.column(position)[offset].as_py() for position, name in enumerate(IMAGES_SCHEMA.names)}
        if row in self._groups:
            fields["group"] = self._groups[row]
        return example_of(fields)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def pick(self, indices: Sequence[int] | Int[np.ndarray, " example"]) -> "SpooledExamples":
        """The examples at these indices, in this order."""
        return SpooledExamples(self._file, self._index[np.asarray(indices, dtype=np.int64)], self._groups, self.has_images)

    def regroup(self, groups: Mapping[int, str]) -> "SpooledExamples":
        """The same examples, those at the given indices in other groups."""
        renamed = {int(self._index[index]): group for index, group in groups.items()}
        return SpooledExamples(self._file, self._index, {**self._groups, **renamed}, self.has_images)
