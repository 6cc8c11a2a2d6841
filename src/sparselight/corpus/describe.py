"""A corpus in numbers: sizes, labels, spans, duplicates, what a split would give, where it came from."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.reading import load_corpus, reader_settings, source_files
from sparselight.errors import CorpusError
from sparselight.records import CorpusRecord, LabelCount

N_TOP = 5


def describe_corpus(corpus: ListCorpus, config: CorpusConfig) -> CorpusRecord:
    """The record of a corpus that was read by a config.

    Raises:
        CorpusError: when the corpus is a part of what was read, or was made in memory.
    """
    reading = corpus.reading
    if reading is None:
        raise CorpusError(asked=f"describe {corpus.origin}", why="it was not read from files as a whole", instead="load it with load_corpus and describe that")
    labels: dict[str, Counter[str]] = {}
    spans: dict[str, Counter[str]] = {}
    lengths, images, n_boxes = [], Counter[str](), 0
    for example in corpus:  # without `annotate`: the token classes of source code outweigh it many times
        lengths.append(len(example.text))
        for name, value in example.labels.items():
            labels.setdefault(name, Counter())[value] += 1
        for span in example.spans:
            spans.setdefault(span.name, Counter())[span.value] += 1
        images.update(image.name for image in example.images)
        n_boxes += sum(len(image.boxes) for image in example.images)
    try:
        held_out = corpus.split(config.held_out_frac, config.seed)[1]
    except CorpusError:
        held_out = None
    return CorpusRecord(
        origin=corpus.origin, kind=config.kind, fingerprint=corpus.fingerprint(), n_examples=len(corpus), n_groups=len(corpus.groups()),
        n_chars=sum(lengths), longest_chars=max(lengths), median_chars=float(np.median(lengths)), labels=_counts(labels), spans=_counts(spans),
        n_held_out=None if held_out is None else len(held_out), n_groups_held_out=None if held_out is None else len(held_out.groups()),
        n_bad_rows=reading.bad.n, bad_rows=reading.bad.shown, notes=[f"{n:,} {what}" for what, n in sorted(reading.notes.items())],
        duplicates=reading.duplicates, sources=source_files(config), settings=reader_settings(config),
        n_images=images.total(), image_names=dict(images.most_common()), n_boxes=n_boxes,
    )


def corpus_record(config: CorpusConfig) -> CorpusRecord:
    """Read a corpus and describe it."""
    return describe_corpus(load_corpus(config), config)


def _counts(counters: Mapping[str, Counter[str]]) -> list[LabelCount]:
    return [LabelCount(name=name, n=counter.total(), n_values=len(counter), top=dict(counter.most_common(N_TOP))) for name, counter in counters.items()]
