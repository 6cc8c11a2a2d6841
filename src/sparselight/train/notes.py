"""What a reader of an SAE's record must know of its training beside the numbers, in sentences: what it went on from, rows on which it learned to stay
silent, and too few tokens for a domain."""

from sparselight.train.config import n_latents_for
from sparselight.train.folder import Job

TOKENS_PER_WEIGHT = 24
"""Distinct tokens for each weight of the encoder that is trained. Our scaling of one number: arXiv 2507.12990 saw general text suffer under 1e8 tokens
with 1024 residual latents on 4096 dimensions, 23.8 a weight."""


def notes_on(job: Job) -> list[str]:
    """All of them."""
    return [note for note in (origin(job), silence(job), too_few_tokens(job)) if note]


def origin(job: Job) -> str | None:
    if job.init is None:
        return None
    finetune, settled = job.config.finetune, f"Trained on from an SAE of {job.init.n_latents} latents (weights {job.init.weights_hash()[:12]})"
    if not finetune.n_new:
        return f"{settled}."
    first = "random directions" if finetune.new_init == "random" else f"copies of the most active ones with noise of {finetune.new_noise:g} of their length"
    only = "; only these were trained" if finetune.train_only == "new" else ""
    return f"{settled}, with {finetune.n_new} new latents after them, first {first}{only}."


def silence(job: Job) -> str | None:
    if job.silent is None:
        return None
    return (f"{job.config.silent_frac:.0%} of each batch were rows of the store {job.silent.fingerprint[:12]}, on which it learned to give back 0; "
            "threshold and l0 are those of the mixture.")


def too_few_tokens(job: Job) -> str | None:
    """A warning, for a residual or fine-tuned SAE whose training saw fewer distinct tokens than TOKENS_PER_WEIGHT asks for."""
    if job.base is None and job.init is None:
        return None
    config, d_in = job.config, job.store.manifest.sites[job.site]
    n_trained = config.finetune.n_new if config.finetune.train_only == "new" else n_latents_for(config, d_in)
    held = job.store.n_tokens if job.rows is None else len(job.rows)
    found, wanted = min(held, config.n_steps * (config.batch_tokens - config.n_silent)), TOKENS_PER_WEIGHT * n_trained * d_in
    if found >= wanted:
        return None
    return (f"Few tokens: {found:,} distinct ones for {n_trained:,} latents on {d_in:,} dimensions, where {wanted:,} are wanted ({TOKENS_PER_WEIGHT} a weight "
            "of the encoder, scaled from the 1e8 of arXiv 2507.12990): expect latents that fit this text alone, and harm to general text.")
