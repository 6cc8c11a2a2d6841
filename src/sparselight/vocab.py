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


# One list a metric family (evaluate/suite.py), in its order.

RECONSTRUCTION: list[Metric] = [
    Metric("fvu", "Fraction of variance unexplained", "sum ||x - x_hat||^2 / sum ||x - mean(x)||^2 over all tokens, one global mean",
           "lower", "0 ..", "SAEBench core (corrected form)"),
    Metric("fvu_change_frac", "Relative change of fvu", "fvu / fvu of the base coder - 1, on the same tokens",
           "lower", "-1 ..", "ours; SAE Boost states the like of explained variance"),
    Metric("explained_variance", "Explained variance", "1 - fvu", "higher", ".. 1", "SAEBench core (corrected form)"),
    Metric("cosine", "Cosine similarity", "mean over tokens of <x, x_hat> / (||x|| ||x_hat||)", "higher", "-1 .. 1", "SAEBench core"),
    Metric("l0", "Active latents a token", "mean over tokens of the number of non-zero latents", "neither", "0 .. n_latents", "SAEBench core"),
    Metric("dead_frac", "Dead latents", "latents that fire on no evaluated token / n_latents", "lower", "0 .. 1", "BatchTopK, section 3"),
    Metric("explained_variance_per_dim", "Explained variance, dimensions alike",
           "mean over dimensions d that vary of 1 - sum (x_d - x_hat_d)^2 / sum (x_d - mean(x_d))^2", "higher", ".. 1",
           "R^2 averaged over outputs (scikit-learn, uniform_average)"),
    Metric("norm_ratio", "Norm ratio", "mean over tokens with x != 0 of ||x_hat|| / ||x||", "neither", "0 ..", "SAEBench core (l2_ratio)"),
    Metric("reconstruction_bias", "Relative reconstruction bias", "sum ||x_hat||^2 / sum <x, x_hat>; 1 is unbiased, below 1 is shrinkage", "neither", "0 ..",
           "Gated SAE (arXiv 2404.16014), section 3; SAEBench core"),
    Metric("n_dead", "Number of dead latents", "latents that fire on no evaluated token", "lower", "0 .. n_latents", "BatchTopK, section 3"),
    Metric("dense_frac", "Dense latents", "latents that fire on more than the stated share of evaluated tokens / n_latents", "neither", "0 .. 1",
           "SAEBench core"),
]

BEHAVIOUR: list[Metric] = [
    Metric("ce_nats", "Cross entropy, spliced", "mean cross entropy of the next token (masked models: of hidden tokens) with x replaced by x_hat", "lower",
           "0 ..", "SAEBench core"),
    Metric("ce_increase_nats", "Cross entropy added", "ce_nats - ce_nats of the unedited subject", "lower", "..", "SAEBench core"),
    Metric("ce_recovered_zero", "CE recovered, against zero", "(CE_zero - CE_sae) / (CE_zero - CE_subject), x replaced by 0 for CE_zero",
           "higher", ".. 1", "SAEBench core"),
    Metric("ce_recovered_mean", "CE recovered, against the mean", "(CE_mean - CE_sae) / (CE_mean - CE_subject), x replaced by its mean for CE_mean",
           "higher", ".. 1", "ours, after SAEBench core"),
    Metric("perplexity", "Perplexity, spliced", "exp(ce_nats); of a masked language model the pseudo-perplexity", "lower", "1 ..",
           "Salazar et al. 2020 (arXiv 1910.14659) for masked models"),
    Metric("kl_nats", "Divergence of predictions", "mean over scored tokens of sum_v p(v) (log p(v) - log q(v)), p of the subject, q with x replaced by x_hat",
           "lower", "0 ..", "SAEBench core: KL(original || spliced)"),
    Metric("kl_recovered_zero", "KL recovered, against zero", "(KL_zero - KL_sae) / KL_zero, x replaced by 0 for KL_zero", "higher", ".. 1", "SAEBench core"),
    Metric("kl_recovered_mean", "KL recovered, against the mean", "(KL_mean - KL_sae) / KL_mean, x replaced by its mean for KL_mean", "higher", ".. 1",
           "ours, after SAEBench core"),
    Metric("top1_agreement", "Agreement of the likeliest prediction", "share of scored tokens whose likeliest candidate stays the same with x replaced by "
           "x_hat",
           "higher", "0 .. 1", "ours; arXiv 2502.09135 for masked models (sequence reconstruction)"),
    Metric("top1_accuracy", "Accuracy of the likeliest prediction", "share of scored tokens whose target is the likeliest candidate with x replaced by x_hat",
           "higher", "0 .. 1", "of hidden residues for protein models, as ESM-2 (Lin et al. 2023)"),
    Metric("hit_rate", "Hit rate", "share of scored tokens whose target ranks among the first k of all candidates", "higher", "0 .. 1",
           "HR@k as RecSAE (arXiv 2411.06112)"),
    Metric("ndcg", "Normalized discounted cumulative gain", "mean over scored tokens of 1[rank <= k] / log2(rank + 1)", "higher", "0 .. 1",
           "NDCG@k as RecSAE (arXiv 2411.06112)"),
]

GEOMETRY: list[Metric] = [
    Metric("mean_max_cosine", "Mean max cosine", "(1/m) sum_i max over j != i of cos(w_i, w_j), w decoder rows, the whole dictionary, signed",
           "lower", "-1 .. 1", "OrtSAE, eq. 6"),
    Metric("mean_max_abs_cosine", "Mean max cosine, absolute", "(1/m) sum_i max over j != i of |cos(w_i, w_j)|, w decoder rows", "lower", "0 .. 1",
           "ours: OrtSAE, eq. 6, unsigned"),
    Metric("mean_max_cosine_random", "Mean max cosine of random directions", "E of mean_max_cosine for as many uniform directions in as many dimensions, exact",
           "neither", "0 .. 1", "ours: reference value"),
    Metric("mean_max_cosine_encoder", "Mean max cosine, encoder", "(1/m) sum_i max over j != i of cos(e_i, e_j), e encoder directions", "lower", "-1 .. 1",
           "ours: OrtSAE, eq. 6, of the encoder"),
    Metric("encoder_decoder_cosine", "Cosine of encoder and decoder", "(1/m) sum_i cos(e_i, w_i)", "neither", "-1 .. 1", "SAEBench core"),
    Metric("graph_density", "Density of the graph of similar latents", "2 E / (m (m - 1)), an edge where the cosine of decoder rows exceeds the threshold",
           "lower", "0 .. 1", "OrtSAE, section 4"),
    Metric("clustering_coefficient", "Clustering coefficient", "3 triangles / connected triples of the graph of similar latents; compare at equal density",
           "lower", "0 .. 1", "OrtSAE, section 4; thresholds ours"),
]

COMPOSITION: list[Metric] = [
    Metric("composition_rate", "Composition rate", "explained variance of the decoder rows by a MetaSAE trained on them (BatchTopK, m/4 latents, k = 4), mean "
           "over seeds", "lower", ".. 1", "Matryoshka SAE, D.1; SAEBench meta_structure; OrtSAE"),
]

STABILITY: list[Metric] = [
    Metric("unique_frac", "Unique latents", "latents whose cosine with every decoder row of the other dictionary is below 0.2 / latents", "neither", "0 .. 1",
           "OrtSAE"),
    Metric("mean_max_cosine_across", "Mean max cosine across dictionaries", "(1/m) sum_i max over j of cos(w_i, v_j), v the other dictionary's decoder rows",
           "neither", "-1 .. 1", "MMCS, Sharkey et al. 2022"),
    Metric("mean_matched_cosine", "Mean cosine of matched latents", "mean cosine over the pairs of the one-to-one matching with the largest sum of cosines "
           "(Hungarian)", "higher", "-1 .. 1", "Paulo and Belrose 2025"),
    Metric("matched_frac", "Latents found again", "latents whose partner in that matching has cosine >= 0.7 (decoder and encoder: both cosines) / latents",
           "higher", "0 .. 1", "Paulo and Belrose 2025"),
    Metric("combined_frac", "Latents that the other dictionary combines", "latents equal (cosine > 0.95) to a non-negative sum of 2 to 4 of the other's "
           "decoder rows, each coefficient >= 0.1 / latents", "neither", "0 .. 1", "OrtSAE; solver ours"),
]

ABSORPTION: list[Metric] = [
    Metric("absorption_full", "Full absorption", "mean over classes of: units whose main latents are silent while one other latent, aligned with the "
           "class's probe, "
           "brings 0.4 of the projection or more / units that the probe finds", "lower", "0 .. 1", "Chanin et al. 2024; SAEBench absorption"),
    Metric("absorption_fraction", "Absorption fraction", "mean over classes and found units of a / (a + M): a what absorbing latents project on the probe, "
           "M what main latents do", "lower", "0 .. 1", "SAEBench absorption"),
    Metric("absorption_missed_frac", "Units that the main latents miss", "mean over classes of: units whose main latents are silent / units that the probe "
           "finds",
           "lower", "0 .. 1", "Chanin et al. 2024"),
    Metric("absorption_child_frac", "Misses that a child's latent explains", "mean over classes of: fully absorbed units whose absorbing latent belongs to "
           "a child "
           "of theirs / units whose main latents are silent", "neither", "0 .. 1", "ours"),
    Metric("absorption_main_latents", "Main latents a class", "mean over classes of the latents by which the F1 of a k-sparse probe rises by more than 0.03",
           "neither", "0 .. 10", "SAEBench absorption (mean_num_split_features)"),
]

RAVEL: list[Metric] = [
    Metric("ravel_cause", "Cause", "pairs that say the source's value after the masked latents are exchanged / pairs, mean over attributes", "higher", "0 .. 1",
           "RAVEL, Huang et al. 2024; SAEBench RAVEL"),
    Metric("ravel_isolation", "Isolation", "pairs that still say the base's value of another attribute / pairs, mean over attributes", "higher", "0 .. 1",
           "RAVEL, Huang et al. 2024; SAEBench RAVEL"),
    Metric("ravel_disentanglement", "Disentanglement", "(ravel_cause + ravel_isolation) / 2 of each attribute, mean over attributes; 0.5 for a mask of nothing",
           "higher", "0 .. 1", "SAEBench RAVEL"),
]

PROBING: list[Metric] = [
    Metric("probe_accuracy", "Accuracy of a sparse probe", "held-out accuracy of logistic regression on the k latents with the largest "
           "|mean with - mean without|, mean over labels", "higher", "0 .. 1", "Gurnee et al. 2023; SAEBench sparse probing"),
    Metric("probe_f1", "F1 of a sparse probe", "2 TP / (2 TP + FP + FN) of the same probes, mean over labels", "higher", "0 .. 1", "Gurnee et al. 2023"),
    Metric("probe_auroc", "AUROC of a sparse probe", "P(score of a positive > score of a negative) + P(equal) / 2 of the same probes, mean over labels",
           "higher", "0 .. 1", "Mann and Whitney 1947"),
    Metric("probe_positive_frac", "Positives among probed units", "units with the label / units in the held-out sample of the probes, over all labels",
           "neither", "0 .. 1", "ours: what guessing is worth"),
]

SCR_TPP: list[Metric] = [
    Metric("scr_score", "Spurious correlation removal", "(A_ablated - A_biased) / (A_clean - A_biased), top n latents of the spurious label ablated",
           "higher", ".. 1", "SAEBench SCR (SHIFT, Marks et al. 2024)"),
    Metric("scr_random_score", "SCR with random latents", "scr_score with n random latents of like firing rates ablated", "neither", ".. 1", "ours: control"),
    Metric("tpp_score", "Targeted probe perturbation", "tpp_intended - tpp_unintended", "higher", "-1 .. 1", "SAEBench TPP"),
    Metric("tpp_intended", "TPP, intended drop", "mean_i of the accuracy that probe i loses by ablating the top n latents of label i", "higher", "-1 .. 1",
           "SAEBench TPP"),
    Metric("tpp_unintended", "TPP, unintended drop", "mean over i and j != i of the accuracy that probe j loses by ablating the top n latents of label i",
           "lower", "-1 .. 1", "SAEBench TPP"),
    Metric("tpp_random_score", "TPP with random latents", "tpp_score with n random latents of like firing rates ablated", "neither", "-1 .. 1",
           "ours: control"),
]

SHIFT: list[Metric] = [
    Metric("shift_concept_accuracy", "SHIFT, intended accuracy", "accuracy of the classifier on the intended label, held-out examples balanced over the four "
           "subgroups", "higher", "0 .. 1", "Marks et al. 2024, Bias in Bios (Profession)"),
    Metric("shift_attribute_accuracy", "SHIFT, unintended accuracy", "agreement of the classifier with the spurious label on the same examples; 0.5 is none",
           "lower", "0 .. 1", "Marks et al. 2024, Bias in Bios (Gender)"),
    Metric("shift_worst_accuracy", "SHIFT, worst group", "lowest accuracy on the intended label among the four subgroups of all held-out examples", "higher",
           "0 .. 1", "Marks et al. 2024, Bias in Bios (Worst)"),
    Metric("shift_n_latents", "SHIFT, latents ablated", "latents that the classifier uses and that are judged irrelevant", "neither", "0 .. n_latents", "ours"),
]

ASSOCIATION: list[Metric] = [
    Metric("association_f1", "F1 of the best latent of a label", "mean over labels of 2 TP / (fires + labelled), latent and threshold of the highest F1 on the "
           "fit side; by domain: harmonic mean of precision and the share of spans found", "higher", "0 .. 1",
           "InterPLM (arXiv 2412.12101), threshold carried over"),
    Metric("association_null_f1", "F1 found by chance", "association_f1 of the same search with labels shuffled over groups, mean over shuffles", "neither",
           "0 .. 1", "ours: control"),
    Metric("association_labels", "Labels with a latent", "labels whose latent has a held-out F1 of at least the floor (0.5 unless set)", "higher",
           "0 .. n_labels", "InterPLM (arXiv 2412.12101)"),
    Metric("association_labels_frac", "Share of labels with a latent", "association_labels / labels that occur often enough", "higher", "0 .. 1",
           "InterPLM (arXiv 2412.12101)"),
    Metric("association_supported_frac", "Share of labels with a proven latent", "labels with F1 at or above the floor, above every shuffle, and with "
           "Benjamini-Hochberg q of a permutation over groups at most the level (0.05 unless set) / labels", "higher", "0 .. 1", "ours"),
    Metric("association_auroc", "AUROC of the best latent of a label", "mean over labels of P(activation of a positive > of a negative) + P(equal) / 2, latent "
           "of the highest AUROC on the fit side", "higher", "0 .. 1", "Mann and Whitney 1947; interval: Obuchowski 1997"),
    Metric("association_latents_frac", "Latents that stand for a label", "latents with q <= 0.05 (screen over all pairs) and held-out F1 above all their "
           "shuffles / living latents", "neither", "0 .. 1", "ours, after InterPLM"),
]

ASSOCIATION_RULES: list[Metric] = [
    Metric("rule_latents_frac", "Latents that the rule calls associated", "living latents with at least one label by the rule / living latents", "neither",
           "0 .. 1", "arXiv 2502.09135; InterPLM (arXiv 2412.12101); ours"),
    Metric("rule_labels", "Labels with a latent by the rule", "labels with at least one latent by the rule", "neither", "0 .. n_labels",
           "arXiv 2502.09135; InterPLM (arXiv 2412.12101); ours"),
    Metric("rule_pairs", "Pairs that the rule calls associated", "pairs of latent and label by the rule", "neither", "0 .. n_latents n_labels",
           "arXiv 2502.09135; InterPLM (arXiv 2412.12101); ours"),
    Metric("rule_chance_pairs", "Pairs by chance", "rule_pairs with labels shuffled over groups, mean over shuffles", "lower", "0 .. n_latents n_labels",
           "ours: control"),
    Metric("rule_supported_frac", "Pairs of the rule that are proven", "pairs of the rule that are also pairs of ours (held out, above the best of every "
           "shuffle, q at most the level) / pairs of the rule", "higher", "0 .. 1", "ours"),
]

COVERAGE: list[Metric] = [
    Metric("coverage_frac", "Covered concepts", "concepts whose best latent by F1 on the fit side has held-out precision and recall at or above the floors / "
           "concepts", "higher", "0 .. 1", "Specialized SAEs (arXiv 2411.00743), figure 2; rule ours"),
    Metric("coverage_tail_frac", "Covered concepts in the tail", "coverage_frac of the rarest tenth of the concepts and all that are as frequent", "higher",
           "0 .. 1", "Specialized SAEs (arXiv 2411.00743), figure 2; rule ours"),
    Metric("coverage_area", "Area under cumulative coverage", "area under covered concepts so far / covered concepts against the share of concepts, the rarest "
           "first; 0.5 where coverage does not depend on frequency", "neither", "0 .. 1", "Specialized SAEs (arXiv 2411.00743), figure 6; area ours"),
    Metric("coverage_tail_recall", "Recall of rare concepts", "mean over the rarest tenth of the concepts of the held-out recall of their latent, 0 where its "
           "precision is below the floor", "higher", "0 .. 1", "ours"),
    Metric("tail_error", "Error on rare tokens", "mean of ||x - x_hat||^2 over tokens with the rarest tenth of the token ids / mean of ||x - mean(x)||^2 over "
           "all tokens", "lower", "0 ..", "Specialized SAEs (arXiv 2411.00743), figure 3"),
    Metric("tail_error_variance", "Variance of the error on rare tokens", "variance of that error over the same tokens", "lower", "0 ..",
           "Specialized SAEs (arXiv 2411.00743), figure 3"),
    Metric("tail_error_max", "Largest error on rare tokens", "largest of that error over the same tokens", "lower", "0 ..",
           "Specialized SAEs (arXiv 2411.00743), figure 3"),
    Metric("token_entropy_nats", "Entropy of a token's activations", "mean over tokens of -sum_i p_i ln p_i, p_i = |z_i| / sum_j |z_j|", "neither",
           "0 .. ln n_latents", "Specialized SAEs (arXiv 2411.00743), figure 5; formula ours"),
    Metric("token_max_activation", "Largest activation of a token", "mean over tokens of max_i |z_i|", "neither", "0 ..",
           "Specialized SAEs (arXiv 2411.00743), figure 5"),
]

SYNTHETIC: list[Metric] = [
    Metric("planted_cosine", "Matching score", "mean over planted features f of max over latents j of cos(w_j, d_f), d_f the planted direction; "
           "one to one: of the assignment with the largest sum", "higher", "-1 .. 1", "MMCS, Sharkey et al. 2022; one to one: ours"),
    Metric("planted_recall", "Planted features found", "planted features with max over living latents j of cos(w_j, d_f) > c / planted features",
           "higher", "0 .. 1", "ours"),
    Metric("planted_precision", "Latents that are a planted feature", "living latents with max over f of cos(w_j, d_f) > c / living latents",
           "higher", "0 .. 1", "ours"),
    Metric("planted_composition", "Latents that are a sum of features", "living latents that are no planted feature but reach the same cosine with a sum of "
           "2 to n_parts of them, no coefficient small / living latents", "lower", "0 .. 1", "ours"),
    Metric("planted_absorption", "Absorption, known truth", "mean over parents of: tokens at which the parent's latent is silent and children's latents "
           "carry its "
           "direction / tokens at which it and a child are on; silent: whoever carries it", "lower", "0 .. 1", "ours, after SAEBench absorption"),
    Metric("planted_f1", "Detection of planted features", "mean over features of 2 tp / (fired + on), the feature's nearest latent fires against it is on",
           "higher", "0 .. 1", "ours"),
]

RANKING: list[Metric] = [
    Metric("ranking_hr", "Hit rate of held-out interactions", "targets with rank <= k / targets; rank = items with the target's score or more, over all "
           "items that the user does not have", "higher", "0 .. 1", "ReChorus, as RecSAE (arXiv 2411.06112) evaluates"),
    Metric("ranking_ndcg", "NDCG of held-out interactions", "mean over targets of 1[rank <= k] / log2(rank + 1)", "higher", "0 .. 1",
           "Jarvelin and Kekalainen 2002; ReChorus"),
    Metric("ranking_overlap", "Overlap of recommendations", "mean over targets of |first k with the coder in place, and first k of the subject| / k", "higher",
           "0 .. 1", "ours"),
]

METRICS_BY_FAMILY: dict[str, list[Metric]] = {
    "reconstruction": RECONSTRUCTION, "behaviour": BEHAVIOUR, "geometry": GEOMETRY, "composition": COMPOSITION, "stability": STABILITY,
    "absorption": ABSORPTION, "ravel": RAVEL,
    "probing": PROBING, "scr_tpp": SCR_TPP, "shift": SHIFT, "association": ASSOCIATION, "association_rules": ASSOCIATION_RULES,
    "coverage": COVERAGE, "synthetic": SYNTHETIC,
    "ranking": RANKING,
}
METRICS: dict[str, Metric] = {row.name: row for rows in METRICS_BY_FAMILY.values() for row in rows}

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
    "user_vector": "the representation before the scoring product, of a recommender",
    "PATH:input": "first input of the module at PATH",
    "PATH:output": "(first) output of the module at PATH",
}

UNLABELLED = "unlabelled"
"""Name of the spans whose labels the source says it does not know: no kind of annotation of their own, and left out where absence of a label counts."""

EDIT_OPERATIONS: dict[str, str] = {
    "ablate": "set the latent to 0",
    "ablate_mean": "set the latent to its mean",
    "clamp": "set the latent to amount where it counts",
    "scale": "multiply the latent by amount",
    "add": "add amount to the latent",
    "swap": "give the latent the activations that it has in another example",
}

STAGES: tuple[str, ...] = ("corpus", "select", "harvest", "train", "residual", "evaluate", "explain", "intervene", "report")

MODALITIES: tuple[str, ...] = ("text", "proteins", "images with text", "recommenders")

# What works today, by stage and modality; the README's table is generated from it and a test runs every entry that says so.
WORKS: dict[str, dict[str, str]] = {
    "corpus": {"text": "JSONL, Parquet, CSV, text, Hugging Face datasets, Python source; spans and labels",
               "proteins": "FASTA, UniProt, GFF3, residue labels; features as spans, homologs as groups",
               "images with text": "PNG, JPEG, DICOM with reports: tables, Open-i, MIMIC-CXR, ChestX-ray14, folders; finding labels, boxes, earlier studies",
               "recommenders": "MovieLens, RecBole, ReChorus, CSV, TSV, Parquet; splits in time, k-core; genres, tags, years as spans"},
    "select": {"text": "BM25 and vectors from seeds, TracIn", "proteins": "vectors from seeds by label",
               "images with text": "seeds by finding, BM25 over reports", "recommenders": "BM25 over titles"},
    "harvest": {"text": "causal and masked LMs, encoders; any PyTorch module", "proteins": "ESM-2 and other masked LMs; UniRep; any PyTorch module",
                "images with text": "LLaVA-type, PaliGemma, Qwen2-VL, Idefics3; language or vision part",
                "recommenders": "SASRec, TiMiRec, BPR-MF, LightGCN; Cornac and ReChorus models; any PyTorch module"},
    "train": {"text": "TopK, BatchTopK, Matryoshka, ReLU, JumpReLU, Gated; transcoders; sweeps", "proteins": "as for text",
              "images with text": "as for text", "recommenders": "as for text"},
    "residual": {"text": "every architecture", "proteins": "as for text", "images with text": "as for text", "recommenders": "as for text"},
    "evaluate": {"text": "reconstruction, behaviour, geometry, probing, absorption, association and more; controls, paired intervals",
                 "proteins": "as for text; association by residue and by domain, published rules beside ours",
                 "images with text": "reconstruction, behaviour and what else needs no character offsets",
                 "recommenders": "as for text; HR and NDCG with the SAE in place"},
    "explain": {"text": "statistical, held-out, graded beside controls; language models with six scorers",
                "proteins": "as for text; annotations of residues, on a structure",
                "images with text": "as for text; findings, boxes, places of patches; pictures in prompts",
                "recommenders": "as for text; concept dictionary with confidence beside controls"},
    "intervene": {"text": "ablate, clamp, scale, add, swap; steering studies beside baselines",
                  "proteins": "as for text; sequences written by unmasking or from left to right, judged beside controls",
                  "images with text": "as for text; reports steered towards findings, with all other findings counted",
                  "recommenders": "as for text; tuning, debiasing curve, export"},
    "report": {"text": "one HTML file; the explorer in the browser, or frozen into one file", "proteins": "as for text",
               "images with text": "as for text; pictures under heat maps", "recommenders": "as for text; concepts, ranking, lists before and after"},
}
