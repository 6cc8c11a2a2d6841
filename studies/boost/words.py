"""Names of benches and variants as the tables and figures show them."""

BENCHES = ("planted", "clinc", "demo", "stories", "hub")
TITLES = {
    "base": "base", "boost": "Boost", "boost_silent": "Boost, silent rows", "boost_general": "control: residual of general data", "finetune": "fine-tuned",
    "finetune_tilted": "fine-tuned, tilted", "extended_random": "extended, random", "extended_most_active": "extended, most active", "grafted": "grafted",
    "scratch_domain": "from scratch on the domain",
}
