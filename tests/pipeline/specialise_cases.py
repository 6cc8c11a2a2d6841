"""A corpus, a tiny subject and recipes over them, small enough that a whole specialization takes seconds."""

import json
from pathlib import Path

from sparselight.testing import tiny_corpus, tiny_subject, tiny_tokenizer

SEED = "security/cipher.py"
SITE = "resid_post.1"
HELD_OUT = ("security/digest.py", "lists/search.py")
SMALL = """
[specialise]
n_new = 16
k_new = 2
n_tokens = 2048
batch_tokens = 256
min_domain_tokens = 512
equal_l0_tokens = 512
checkpoint_every_s = 0
[evaluate]
suite = "reconstruction,behaviour,coverage"
n_tokens = 600
n_bootstrap = 40
[explain]
explain_tokens = 1500
score_tokens = 1000
n_shuffles = 1
n_bootstrap = 10
min_support = 5
min_groups = 1
"""


def write_files(folder: Path) -> None:
    """The subject, the corpus, and who is held out."""
    subject = tiny_subject()
    subject.model.save_pretrained(folder / "subject")
    tiny_tokenizer().save_pretrained(folder / "subject")
    rows = [{"id": example.id, "text": example.text, "file": example.group, **example.labels} for example in tiny_corpus(240)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.txt").write_text("\n".join(HELD_OUT) + "\n")


def tables(folder: Path, select: str = f'seeds = ["{SEED}"]') -> str:
    """A recipe without the tables of a specialization."""
    return f"""
name = "tiny"
[corpus]
root = "{folder}/corpus.jsonl"
id = "id"
group = "file"
labels = ["package"]
held_out_ids = "{folder}/held_out.txt"
[subject]
source = "{folder}/subject"
context_tokens = 64
[sample]
general_tokens = 6000
held_out_tokens = 1500
[harvest]
site = "{SITE}"
shard_tokens = 4096
[train]
n_latents = 48
k = 4
n_tokens = 4096
batch_tokens = 256
[select]
{select}
max_tokens = 4000
common_frac = 0.5
"""
