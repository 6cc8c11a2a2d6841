"""Publishing an SAE on the Hugging Face Hub: its folder in the native layout, which SAELens reads, and a model card that is written from its record.

Owns: the card (what it is, measurements beside their controls, provenance, how to load it here and elsewhere) and the upload in one commit.
Nothing is published that has no record. Refuses, in one line, a hub that cannot be reached or does not let you write.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparselight.errors import SaeError
from sparselight.places import without_paths
from sparselight.records import EvalRecord, EvalRow, Part, SaeRecord
from sparselight.sae.base import Sae
from sparselight.sae.disk import save_sae
from sparselight.sae.formats.format import says_b_dec, says_selection
from sparselight.sae.formats.hub import HUB, hub_error, hub_library

SHOWN_METRICS = ("fvu", "l0", "dead_frac", "ce_increase_nats", "ce_recovered_mean", "ce_recovered_zero")


class Published(Part):
    """What `push` did, or with `dry_run` would do."""

    address: str
    """What load_sae takes."""
    files: dict[str, int]
    """Path in the repository to its size in bytes."""
    commit: str | None
    """Null for a dry run."""
    card: str


def push(
    sae: Sae, repository: str, path: str | None = None, evaluation: EvalRecord | None = None, *, private: bool = False, license_name: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Upload an SAE with its card.

    Args:
        repository: OWNER/NAME; it is made when it does not exist.
        path: folder in it; the site's name where left out.
        evaluation: measurements for the card.
        license_name: of the weights, as the hub spells it; nothing is claimed where left out.
        dry_run: make everything and send nothing.

    Raises:
        SaeError: for an SAE without a record, a name that is none, or a hub that cannot be reached or refuses.
    """
    asked = f"publish an SAE as {repository}"
    if sae.record is None:
        raise SaeError(asked=asked, why="it has no record of what it was trained on",
                       instead="publish SAEs that were trained here, or convert it and upload it with `hf upload`")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SaeError(asked=asked, why="that is not of the form OWNER/NAME", instead="give your user or organization and a name")
    path = (path or re.sub(r"[^\w.-]+", "_", sae.record.site)).strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise SaeError(asked=asked, why=f"the path {path!r} leads out of the repository", instead="give a plain path")
    card = model_card(sae, repository, path, evaluation, license_name)
    subject, notes = sae.record.subject.model_copy(update={"source": ""}), [without_paths(note) for note in sae.record.notes]
    with tempfile.TemporaryDirectory(prefix="sparselight-push-") as name:
        folder = Path(name) / "files"
        save_sae(sae, sae.record.model_copy(update={"subject": subject, "notes": notes}), folder / path)
        (folder / path / "README.md").write_text(card, encoding="utf-8")
        commit = None if dry_run else upload(folder, repository, path, private, card, asked)
        files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    return Published(address=f"{HUB}{repository}/{path}{f'@{commit}' if commit else ''}", files=files, commit=commit, card=card)


def upload(folder: Path, repository: str, path: str, private: bool, card: str, asked: str) -> str:
    """Send a folder in one commit; the card becomes the repository's own where it has none."""
    library = hub_library(asked)
    api = library.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if not api.file_exists(repository, "README.md"):
            (folder / "README.md").write_text(card, encoding="utf-8")
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"sparselight: {path}")
    except Exception as err:
        raise hub_error(asked, err) from None
    return str(done.oid)


def model_card(sae: Sae, repository: str, path: str, evaluation: EvalRecord | None, license_name: str | None = None) -> str:
    """The card in Markdown; everything in it stands in the record, the evaluation or the weights."""
    record = sae.record
    assert record is not None
    what = f"{'transcoder' if record.target_site else 'sparse autoencoder'} ({record.role}, {record.architecture})"
    lines = [
        front_matter(record, license_name), f"# {plain(repository)}: {plain(path)}", "",
        f"A {what} with {sae.n_latents:,} latents for `{plain(record.site)}` of `{plain(record.subject.name)}`, trained with sparselight.", "",
        "| | |", "| --- | --- |", *(f"| {name} | {plain(value)} |" for name, value in facts(sae, record).items()), "",
        "## Measurements", "", *measurements(evaluation), "",
        "## Provenance", "", *provenance(sae, record), "",
        "## How to load it", "", *loading(sae, repository, path),
    ]
    return "\n".join(lines).rstrip() + "\n"


def front_matter(record: SaeRecord, license_name: str | None) -> str:
    values: dict[str, Any] = {"library_name": "sparselight", "tags": ["sparse-autoencoder", "interpretability", "saelens"]}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", record.subject.name) and not record.subject.source:
        values["base_model"] = record.subject.name
    if license_name:
        values["license"] = license_name
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---", ""])


def facts(sae: Sae, record: SaeRecord) -> dict[str, str]:
    policy = record.subject.token_policy
    bos, specials = "with" if policy.prepend_bos else "without", "count" if policy.count_specials else "do not count"
    return {
        "site": record.site,
        "gives back": record.target_site or "the same site",
        "d_in": str(sae.d_in),
        "latents": f"{sae.n_latents:,}",
        "selection": says_selection(sae),
        "b_dec": says_b_dec(sae),
        "input scaling": f"{record.normalization}; folded into the weights",
        "mean active latents a token": f"{record.l0:.1f}",
        "dead latents": f"{record.n_dead:,} (no firing in {record.dead_after_tokens:,} training tokens)",
        "trained on": f"{record.n_tokens_seen:,} tokens",
        "rows": f"up to {policy.context_tokens} positions, {bos} BOS, special tokens {specials}",
    }


def measurements(evaluation: EvalRecord | None) -> list[str]:
    """A table a dataset, SAEs first, controls after them."""
    if evaluation is None:
        return ["None were given when this was published."]
    lines: list[str] = []
    for dataset, n_tokens in evaluation.n_tokens.items():
        rows = [row for row in evaluation.rows if row.dataset == dataset and row.metric in SHOWN_METRICS and not row.setting]
        coders = sorted(dict.fromkeys(row.coder for row in rows), key=lambda name: is_control(rows, name))
        metrics = [metric for metric in SHOWN_METRICS if any(row.metric == metric for row in rows)]
        cells = {(row.coder, row.metric): str(row.value) for row in rows}
        lines += [f"On {plain(dataset)} held-out text, {n_tokens:,} tokens; 95 % intervals over groups of examples.", "",
                  f"| | {' | '.join(metrics)} |", f"| --- |{' --- |' * len(metrics)}",
                  *(f"| {plain(coder)}{' (control)' if is_control(rows, coder) else ''} | {' | '.join(cells.get((coder, metric), '-') for metric in metrics)} |"
                    for coder in coders), ""]
    lines += [f"- CE recovered says nothing here: on {plain(one.dataset)} text {plain(one.control)} recovers {one.control_value} of the model's loss, not "
              f"clearly less than {plain(one.coder)} ({one.value})." for one in evaluation.matched_by_controls("ce_recovered_mean")]
    return [*lines, *(f"- {plain(without_paths(text))}" for text in evaluation.notes)]


def is_control(rows: Sequence[EvalRow], coder: str) -> bool:
    return any(row.is_control for row in rows if row.coder == coder)


def provenance(sae: Sae, record: SaeRecord) -> list[str]:
    lines = [
        f"- Weights, SHA-256: `{sae.weights_hash()}`", f"- Subject: `{plain(record.subject.name)}`, fingerprint `{plain(record.subject.fingerprint)}`",
        f"- Training activations: store `{plain(record.store_fingerprint)}`", *(f"- Parent: `{plain(parent)}`" for parent in record.parents),
        *(f"- {plain(without_paths(text))}" for text in record.notes),
    ]
    if not record.config:
        return lines
    settings = json.dumps(record.config, indent=1).replace("```", "` ` `")
    return [*lines, "", "<details><summary>Settings of the training</summary>", "", "```json", settings, "```", "", "</details>"]


def loading(sae: Sae, repository: str, path: str) -> list[str]:
    saelens = ["With SAELens:", "", "```python", "from sae_lens import SAE", "", f'sae = SAE.from_pretrained("{repository}", "{path}")', "```", ""]
    if sae.k is not None and sae.is_transcoder:
        saelens = ["SAELens has no transcoder that keeps the k largest latents of each token: use sparselight.", ""]
    return [
        "```python", "import sparselight as sl", "", f'sae = sl.load_sae("hf://{repository}/{path}")', "```", "", *saelens,
        "For other libraries (sparsify, dictionary_learning, Gemma Scope's layout), converted and compared:", "", "```",
        f"sparselight convert hf://{repository}/{path} OUT --to FORMAT --verify", "```",
    ]


def plain(value: Any) -> str:
    """Text that is no markup in a table cell."""
    text = " ".join(str(value).split())
    for sign, code in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}.items():
        text = text.replace(sign, code)
    return text


def published_lines(done: Published) -> list[str]:
    """For a person."""
    end = "nothing was sent (dry run)" if done.commit is None else f"published as {done.address}"
    return [*(f"{size:>12,} bytes  {name}" for name, size in done.files.items()), end]
