"""What a recipe says of its corpus: where the examples come from, which columns are what, duplicates, split.

Owns: `CorpusConfig`, the kind that a path's ending implies, and which settings each kind uses. Refuses a setting that the kind at hand
would ignore, by its dotted name.
"""

import gzip
import zlib
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sparselight.config import Config
from sparselight.corpus.image_text.config import ImageTextConfig
from sparselight.corpus.interactions.config import InteractionsConfig
from sparselight.corpus.protein.config import ProteinConfig
from sparselight.corpus.python_source import stdlib_root
from sparselight.errors import ConfigError

Kind = Literal["python_source", "text", "jsonl", "json", "parquet", "csv", "tsv", "hf_dataset", "brat", "conll", "interactions", "protein",
               "image_text"]
HUB = "hf://"
HELD_OUT_VALUES = ["held_out", "test", "validation", "valid", "val", "dev"]
FILE_SECTION_CHARS = 1600  # files are cut where nothing else is said: whole ones are far longer than a model's context

# Kind -> endings of its files; any of them may be followed by .gz where the kind is in GZIPPED.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "python_source": (".py",), "text": (".txt", ".md", ".rst"), "jsonl": (".jsonl", ".ndjson"), "json": (".json",), "parquet": (".parquet",),
    "csv": (".csv",), "tsv": (".tsv",), "hf_dataset": (), "brat": (".ann", ".txt"), "conll": (".conll", ".iob", ".iob2", ".bio", ".bioes", ".iobes"),
    "interactions": (".inter", ".item", ".user", ".dat", ".data", ".csv", ".tsv", ".parquet"),
    "protein": (".fasta", ".fa", ".faa", ".fas", ".3line", ".gff3", ".gff", ".dat", ".tsv", ".json"),
    "image_text": (".png", ".jpg", ".jpeg", ".dcm"),
}
UNIPROT_BEGIN = b"ID   "
MAX_LOOKED_AT = 10_000  # entries of a folder whose kind is to be found
GZIPPED = ("jsonl", "json", "csv", "tsv", "conll", "protein")
TABLES = ("jsonl", "json", "parquet", "csv", "tsv", "hf_dataset")
KINDS_OF_SETTING: dict[str, tuple[str, ...]] = {
    "files": (*(kind for kind in TABLES if kind != "hf_dataset"), "text", "conll", "protein"),
    "include_tests": ("python_source",), "documents": ("text",), "heading": ("text",), "quote": ("csv", "tsv"), "streaming": ("hf_dataset",),
    "interactions": ("interactions",), "revision": ("hf_dataset",), "span_name": ("brat", "conll"), "token_column": ("conll",), "tag_column": ("conll",),
    "protein": ("protein",), "on_bad_row": (*TABLES, "interactions", "brat", "conll", "protein", "image_text"), "image_text": ("image_text",),
    "spans": (*TABLES, "text", "brat", "conll", "protein", "image_text"),
    "example_labels": (*TABLES, "interactions", "text", "brat", "conll", "protein", "image_text"),
    "section_chars": tuple(kind for kind in SUFFIXES if kind not in ("protein", "image_text")), "text": TABLES,
    **dict.fromkeys(("id", "group", "labels"), (*TABLES, "image_text")), "split": (*TABLES, "protein", "image_text"),
}


class CorpusConfig(Config):
    """Where the examples come from, what each column is, what happens to duplicates, and how the examples are split."""

    kind: Kind = "python_source"
    """What the files hold; where it is left out, the ending of `root` (.jsonl, .parquet, .csv, hf://...) or of most files in it says it, else Python source."""
    root: str = "stdlib"
    """A file, a folder, `hf://NAME[:CONFIG][:SPLIT]` for a Hugging Face dataset, or `stdlib`: the standard library of the running Python."""
    files: list[str] = Field(default_factory=list)
    """Which files of a folder are read: patterns of their names or paths below it, such as `cv_*.fasta` or `2024/*`; left out, all that are of the kind."""
    include_tests: bool = True
    """Whether files under test folders count (python_source only)."""
    section_chars: int | None = Field(None, ge=200)
    """Longest example, in characters; longer ones are cut at statement or paragraph ends. Left out: 1600 for python_source and text, no cut for the others."""
    documents: Literal["file", "block", "line", "heading"] = "file"
    """What one document of a text file is (text only): the file, a block between blank lines, a line, or what begins at a heading."""
    heading: str = ""
    """Regular expression; a line that matches it from its start begins a document (documents = "heading")."""
    text: str | list[str] = "text"
    """Column of the text (tables only); several are joined by a blank line. A dot reaches into an object: `meta.title`."""
    id: str = ""
    """Column of the example's id, unique in the corpus; left out, it is the file's name and the line or row."""
    group: str = ""
    """Column of what a split must not divide (patient, author); left out, each row is a group of its own. `_file` is the file's name."""
    labels: list[str] | dict[str, str] = Field(default_factory=list)
    """Columns that become labels of the example: names, or a table of label = "column"."""
    split: str = ""
    """Column that says which side an example is on; `_file` is the file's name (the only choice for proteins), `_split` the split of a Hugging Face dataset or
    the key of a JSON object."""
    held_out_values: list[str] = Field(default=HELD_OUT_VALUES, min_length=1)
    """Values of the split column that are held out; all others are trained on."""
    held_out_ids: str = ""
    """A text file of group names or example ids, one a line: those are held out, all others are trained on."""
    quote: str = Field('"', max_length=1)
    """Character around fields that hold separators (csv and tsv); empty when quotes mean nothing."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """Whether a row without usable text, id or labels ends the reading, or is left out and counted."""
    spans: str = ""
    """A table (JSONL, CSV, TSV, Parquet) of span annotations: columns id, start, end (characters, end excluded), name, value."""
    example_labels: str = ""
    """A table of example labels: columns id, name, value."""
    span_name: str = Field("entity", min_length=1)
    """Name of the spans of brat and conll files; their value is the type in the file."""
    token_column: int = 0
    """Column of the token in a conll file, from 0; negative numbers count from the end."""
    tag_column: int = -1
    """Column of its tag (BIO, IOB, IOBES or BILOU)."""
    interactions: InteractionsConfig = InteractionsConfig()
    """Layout, cleaning and split in time of a table of who used what and when (interactions only)."""
    protein: ProteinConfig = ProteinConfig()
    image_text: ImageTextConfig = ImageTextConfig()
    """Layout of studies on disk, sections, finding labels, earlier studies, what of an image is refused (image_text only)."""
    streaming: bool = False
    """Read a Hugging Face dataset over the network as it is used, without a copy on disk; `max_examples` then takes the first ones."""
    revision: str = ""
    """Commit, tag or branch of a Hugging Face dataset; pin it to read the same rows tomorrow."""
    max_examples: int | None = Field(None, ge=1)
    """Draw at most so many examples, after duplicates are gone."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Which examples count as duplicates: none, equal texts (case, white space and Unicode form aside), or also those with a similarity of `dedup_jaccard`."""
    dedup_action: Literal["drop", "group"] = "drop"
    """Keep the first of each set of duplicates, or keep all and let no split divide them."""
    dedup_jaccard: float = Field(0.8, ge=0.5, le=1)
    """Two texts are near duplicates when they share at least this part of their character 5-grams."""
    in_memory: bool = True
    """False keeps the examples in a temporary file (under TMPDIR) that is read as it is used: for texts larger than the memory."""
    held_out_frac: float = Field(0.25, gt=0, lt=1)
    """Share of groups (files) that are never trained on; of no effect where `split` or `held_out_ids` says which."""
    seed: int = 0
    """Of the split and of the draw of `max_examples`."""

    @model_validator(mode="before")
    @classmethod
    def _kind_of_root(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data and isinstance(data.get("root"), str):
            return {**data, "kind": kind_of(data["root"])}
        return data

    def path(self) -> Path:
        return stdlib_root() if self.root == "stdlib" else Path(self.root).expanduser()

    @property
    def longest_chars(self) -> int | None:
        """Longest example in characters, or None for no limit."""
        whole_files = self.kind in ("python_source", "text")
        return FILE_SECTION_CHARS if self.section_chars is None and whole_files else self.section_chars


def kind_of(root: str) -> str:
    """The kind that a path implies: by its ending, a folder by the endings of most of its files; Python source where nothing is implied."""
    if root.startswith(HUB):
        return "hf_dataset"
    folder = Path(root).expanduser()
    if root == "stdlib" or not folder.is_dir():
        return "protein" if is_uniprot(folder) else kind_of_name(root) or "python_source"
    names = [path.name for path in islice(folder.rglob("*"), MAX_LOOKED_AT)]
    counts = Counter(kind for name in names if (kind := kind_of_name(name)))
    pictures = counts.pop("image_text", 0)  # text often lies beside pictures of its own: a folder is of images where nothing else is in it
    most = max(counts, key=counts.__getitem__, default="image_text" if pictures else "python_source")
    return "brat" if most == "text" and any(name.endswith(".ann") for name in names) else most


def is_uniprot(path: Path) -> bool:
    """Whether a .dat file, an ending that others use too, begins like an entry of UniProt."""
    name = path.name.lower()
    if not name.removesuffix(".gz").endswith(".dat") or not path.is_file():
        return False
    try:
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as handle:
            return handle.read(len(UNIPROT_BEGIN)) == UNIPROT_BEGIN
    except (OSError, EOFError, zlib.error):
        return False


def kind_of_name(name: str) -> str | None:
    """The kind that the ending of a name implies."""
    plain = name.lower().removesuffix(".gz")
    return next((kind for kind, suffixes in SUFFIXES.items() if suffixes and plain.endswith(suffixes) and kind != "brat"), None)


def check_settings(config: CorpusConfig) -> None:
    """Refuse what is set and would be ignored.

    Raises:
        ConfigError: naming the setting.
    """
    for name in sorted(config.model_fields_set):
        value, kinds = getattr(config, name), KINDS_OF_SETTING.get(name)
        if kinds and config.kind not in kinds and value != CorpusConfig.model_fields[name].get_default(call_default_factory=True):
            raise ConfigError(asked=f"set corpus.{name} to {value!r}", why=f"a corpus of kind {config.kind} does not use it",
                              instead=f"leave it out, or set corpus.kind to {' or '.join(kinds)}")
    for name, value, needs, holds in (
        ("documents", "heading", "corpus.heading, the pattern of a heading", bool(config.heading)),
        ("heading", config.heading, 'corpus.documents = "heading"', not config.heading or config.documents == "heading"),
        ("held_out_ids", config.held_out_ids, "corpus.split to be left out", not (config.held_out_ids and config.split)),
        ("held_out_values", config.held_out_values, "corpus.split, the column with those values",
         config.held_out_values == HELD_OUT_VALUES or bool(config.split)),
        ("split", config.split, 'for proteins the value "_file": whole files are on one side or the other',
         config.kind != "protein" or config.split in ("", "_file")),
        ("dedup_action", config.dedup_action, 'corpus.dedup = "exact" or "near"', config.dedup_action == "drop" or config.dedup != "none"),
        ("dedup_jaccard", config.dedup_jaccard, 'corpus.dedup = "near"', config.dedup_jaccard == 0.8 or config.dedup == "near"),
    ):
        if getattr(config, name) == value and not holds:
            raise ConfigError(asked=f"set corpus.{name} to {value!r}", why=f"it needs {needs}", instead="change one of the two")
