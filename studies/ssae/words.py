"""Names of benches, ways of choosing and measures as the tables and figures show them."""

BENCHES = ("planted", "clinc", "demo", "bios")
ARMS = {"finetune": "fine-tuned", "boost": "residual SAE"}
STRATEGIES = {
    "general": "random general text", "seeds": "the seeds alone", "bm25": "BM25", "dense": "dense", "bm25+tracin": "BM25, TracIn",
    "dense+tracin": "dense, TracIn", "files": "files of the domain, by name",
}
TRAININGS = {"scratch": "from scratch", "finetune": "fine-tuned"}
# Bench -> measures of the sweep of t; the first one is the tail that claims are about.
TAIL = {
    "planted": {
        "recall_below 1 %": "Rare features found", "recall_above 2 %": "above 2 %", "recall_1 to 2 %": "1 to 2 %",
        "recall_dark, domain": "dark, the domain's", "recall_dark, others": "dark, others", "general_fvu": "fvu",
        "worst_percent": "Worst percent of errors", "error_variance": "Variance of errors",
        "general_l0": "l0",
    },
    "clinc": {
        "recall_rare": "Rare intents with a detector", "recall_1 seen": "1 seen", "recall_3 seen": "3", "recall_6 seen": "6", "recall_12 seen": "12",
        "recall_24 seen": "24", "recall_60 seen": "60", "general_fvu": "fvu, common", "domain_fvu": "fvu, rare", "worst_percent": "Worst percent of errors",
        "general_l0": "l0",
    },
    "demo": {
        "tail_fvu": "fvu of rare token ids", "domain_fvu": "Domain fvu", "general_fvu": "General fvu", "worst_percent": "Worst percent of errors",
        "error_variance": "Variance of errors", "domain_l0": "l0, domain",
    },
}
VARIANTS = {"base": "general SAE", "finetune": "fine-tuned", "finetune_tilted": "fine-tuned, tilted", "boost": "Boost",
            "boost_general": "control: residual of general text"}
RULES = {"published": "published thresholds", "wide": "50 most used"}
SHIFT_SETTINGS = {
    "metrics": ("concept_accuracy", "attribute_accuracy", "worst_accuracy"), "settings": ("ablated", "random latents", "retrained", "feature skyline"),
}
