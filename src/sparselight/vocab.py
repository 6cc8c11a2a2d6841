"""The vocabulary as data: metrics, site names, axes, edit operations, and what works for which modality. No torch here."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A measured quantity: every reported value is one of these."""

    name: str
    title: str
    formula: str
    better: str  # lower | higher | neither
    range: str
    source: str


METRICS: dict[str, Metric] = {row.name: row for row in [
    Metric("fvu", "Fraction of variance unexplained", "sum ||x - x_hat||^2 / sum ||x - mean(x)||^2 over all tokens, one global mean",
           "lower", "0 ..", "SAEBench core (corrected form)"),
    Metric("fvu_change_frac", "Relative change of fvu", "fvu / fvu of the base coder - 1, on the same tokens",
           "lower", "-1 ..", "ours; SAE Boost states the like of explained variance"),
    Metric("explained_variance", "Explained variance", "1 - fvu", "higher", ".. 1", "SAEBench core (corrected form)"),
    Metric("cosine", "Cosine similarity", "mean over tokens of <x, x_hat> / (||x|| ||x_hat||)", "higher", "-1 .. 1", "SAEBench core"),
    Metric("l0", "Active latents a token", "mean over tokens of the number of non-zero latents", "neither", "0 .. n_latents", "SAEBench core"),
    Metric("dead_frac", "Dead latents", "latents that fire on no evaluated token / n_latents", "lower", "0 .. 1", "BatchTopK, section 3"),
    Metric("ce_nats", "Cross entropy, spliced", "mean next-token cross entropy with x replaced by x_hat", "lower", "0 ..", "SAEBench core"),
    Metric("ce_increase_nats", "Cross entropy added", "ce_nats - ce_nats of the unedited subject", "lower", "..", "SAEBench core"),
    Metric("ce_recovered_zero", "CE recovered, against zero", "(CE_zero - CE_sae) / (CE_zero - CE_subject), x replaced by 0 for CE_zero",
           "higher", ".. 1", "SAEBench core"),
    Metric("ce_recovered_mean", "CE recovered, against the mean", "(CE_mean - CE_sae) / (CE_mean - CE_subject), x replaced by its mean for CE_mean",
           "higher", ".. 1", "stricter form of SAEBench core"),
]}

# Standard site names -> what they address. N is the layer number.
SITES: dict[str, str] = {
    "embed": "output of the token embedding",
    "resid_pre.N": "residual stream before layer N",
    "resid_mid.N": "residual stream between the attention and the feed-forward block of layer N",
    "resid_post.N": "residual stream after layer N",
    "attn_out.N": "output of the attention block of layer N, before it is added",
    "mlp_out.N": "output of the feed-forward block of layer N, before it is added",
    "mlp_act.N": "hidden activations of the feed-forward block of layer N, after its nonlinearity",
    "pooled": "one vector an example, of an encoder with pooling",
    "PATH:input": "first input of the module at PATH",
    "PATH:output": "(first) output of the module at PATH",
}

EDIT_OPERATIONS: dict[str, str] = {
    "ablate": "set the latent to 0",
    "clamp": "set the latent to amount where it counts",
    "scale": "multiply the latent by amount",
    "add": "add amount to the latent",
}

STAGES: tuple[str, ...] = ("corpus", "select", "harvest", "train", "residual", "evaluate", "explain", "intervene", "report")

MODALITIES: tuple[str, ...] = ("text", "proteins", "images with text", "recommenders")

# What works today, by stage and modality; the README's table is generated from it and a test runs every entry that says so.
WORKS: dict[str, dict[str, str]] = {
    "corpus": {"text": "JSONL, Parquet, CSV, text, Hugging Face datasets, Python source; spans and labels"},
    "select": {"text": "BM25 from seeds"},
    "harvest": {"text": "causal and masked LMs, encoders"},
    "train": {"text": "TopK, BatchTopK, Matryoshka, ReLU, JumpReLU, Gated; transcoders; sweeps"},
    "residual": {"text": "every architecture"},
    "evaluate": {"text": "reconstruction, behaviour, controls"},
    "explain": {"text": "statistical, held-out, shuffled control"},
    "intervene": {"text": "ablate, clamp, scale, add"},
    "report": {"text": "one HTML file"},
}
