"""The first stage: where examples come from.

Owns: reading sources into examples with groups, labels and spans, duplicates, splits, and their fingerprints. Each kind of source is one file
here and one row of `reading.KINDS`; each table format yields rows, and `columns.py` makes examples of them.
"""

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.describe import corpus_record, describe_corpus
from sparselight.corpus.plain_text import PlainText
from sparselight.corpus.python_source import PythonSource
from sparselight.corpus.reading import CLASSES, KINDS, check_root, load_corpus, source_fingerprint

__all__ = [
    "CLASSES", "KINDS", "CorpusConfig", "ListCorpus", "PlainText", "PythonSource", "check_root", "corpus_record", "describe_corpus", "load_corpus",
    "source_fingerprint",
]
