"""A toy corpus for selections: six files of a domain among sixty of other topics, split, with labels; vectors and influence that are known."""

import numpy as np

from sparselight.corpus import ListCorpus
from sparselight.protocols import Example, Span

CIPHER = ["cipher", "key", "digest", "hmac", "nonce", "signature", "encrypt", "padding"]
TOPICS = [[f"topic{chr(97 + t)}word{chr(97 + w)}" for w in range(8)] for t in range(6)]


def toy_examples() -> list[Example]:
    """Two sections a file; the domain's files come first."""
    rng = np.random.default_rng(0)
    files = [(f"crypt/file{number}.py", CIPHER) for number in range(6)] + [(f"rest/file{number}.py", TOPICS[number % 6]) for number in range(60)]
    examples = []
    for group, words in files:
        for section in range(2):
            text = " ".join(["import", "self", "filler", *rng.choice(words, 20)])
            spans = (Span(0, 6, "keyword", "import"),) if group == "crypt/file5.py" else ()
            examples.append(Example(f"{group}#{section}", text, group, {"package": group.partition("/")[0]}, spans))
    return examples


def toy_corpus(*more: Example) -> ListCorpus:
    return ListCorpus([*toy_examples(), *more], "a toy corpus")


def count(examples: "list[Example]") -> list[int]:
    return [len(example.text.split()) for example in examples]


def topic_vectors(examples: "list[Example]") -> np.ndarray:
    """How many words of each topic a text has, beside a large part that all share."""
    topics = [set(CIPHER), *map(set, TOPICS)]
    counts = [[sum(word in topic for word in example.text.split()) for topic in topics] for example in examples]
    return np.concatenate([np.array(counts, dtype=np.float32), np.full((len(examples), 1), 100, dtype=np.float32)], axis=1)
