"""SHIFT where profession and gender go together: biographies of the sample that Bias in Bios has on GitHub, 1,000 accountants and 280 others.

A probe on mean activations of MiniLM learns accountant or not where all accountants are men and all others women; latents that add to the gender are ablated
(docs/evaluation/shift.md, judge = skyline), and accuracy is taken on held-out biographies of all four groups. The general SAE reads Wikipedia, the
specialised ones biographies. The correlation is made by drawing, the text and both labels are real. This is not the paper's
protocol: that is `bias_in_bios.py`.
"""

from studies.boost.variants import Work
from studies.common.results import Row
from studies.common.sentences import Biographies

from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.pipeline.specialise import train_variants

VARIANTS = ("base", "boost", "boost_general", "finetune", "finetune_tilted")
METRICS = ("shift_concept_accuracy", "shift_attribute_accuracy", "shift_worst_accuracy", "shift_n_latents")
LABELS = {"concept": "profession", "concept_values": ["accountant", "other"], "attribute": "gender", "attribute_values": ["male", "female"]}
RULES = {"published": {"keep_effect": 0.1, "judge_effect": 0.1107}, "wide": {"keep_n": 50, "judge_effect": 0.02}}
"""Which latents count as used and as about gender. Published: Marks et al.; effects are smaller here, where a probe reads 384 dimensions of one site, and
leave about one latent, so the 50 that the classifier uses most are judged as well, at a lower bar."""
ALL_TOKENS = 10_000_000


def measure_shift(bios: Biographies, work: Work, domain: str, seed: int) -> list[Row]:
    """Accuracies before and after, for every variant and its controls, by both rules."""
    bench, base = work.bench, work.base(seed)
    sides = bench.domains[domain]
    saes = train_variants(base, sides.train, bench.general.train, work.config(seed, variants=list(VARIANTS)), work.seed_folder(seed) / domain)
    contenders = {name: Contender(sae, is_control=False) for name, sae in saes.items()}
    configs = {rule: EvaluateConfig.parse({"suite": "shift", "controls": False, "n_tokens": ALL_TOKENS, "n_bootstrap": 40, "seed": seed,
                                           "shift": {**LABELS, **chosen}}, "evaluate") for rule, chosen in RULES.items()}
    case = Case(bench.site, {"bios": Dataset("bios", bios.fit, bios.held_out, sides.train, sides.held_out)}, configs["published"])
    rows = []
    for rule, config in configs.items():
        found: dict[str, dict[str, float]] = {}
        for row in run_suite(case, contenders, config).rows:
            if row.metric in METRICS and row.coder in (*saes, "subject"):
                found.setdefault(row.coder, {})[f"{row.metric.removeprefix('shift_')}|{row.setting}"] = row.value.value
        rows += [{"domain": domain, "variant": name, "rule": rule, "values": {**values, **(work.measured(saes[name], domain) if name in saes else {})}}
                 for name, values in found.items()]
    return rows
