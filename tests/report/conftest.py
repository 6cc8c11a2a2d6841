"""A whole report's data, made up but of realistic size and shape, with strings that try to break the page."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from sparselight.records import (
    Card,
    Context,
    EditResult,
    EvalRecord,
    EvalRow,
    Evidence,
    Explanation,
    MetricValue,
    NextToken,
    SaeRecord,
    SubjectRef,
    TokenPolicy,
)
from sparselight.report import ReportData, RunInfo

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u00fc\u4e16\u754c\U0001f980", "\u202eevil", "x" * 400,
         "a'b\"c&amp;", "\n\n    ", "\t"]
TEXT = (
    "def verify ( self , key : bytes ) -> bool : \n     digest = hmac . new ( key , self . message , hashlib . sha256 ) . digest ( ) \n "
    "    if not hmac . compare _ digest ( digest , expected ) : \n         raise ssl . SSLError ( 'certificate verify failed : unable to get local issuer' ) "
)
CODE = TEXT.split(" ")
LABELS = [
    "token_class=docstring", "token_class=comment", "token_class=keyword", "token_class=number", "package=asyncio", "package=ssl", "token=self",
    "package=email", "previous=def", "token=return", "package=unittest", "token=import", "package=hashlib", "token=key", "package=tkinter",
]
SITE = "resid_post.2"
SUBJECT = SubjectRef(name="sparselight-demo-lm", fingerprint="9f2c51ab" * 8, token_policy=TokenPolicy(prepend_bos=True, context_tokens=512))


def measured(value: float, width: float | None = 0.02, n: int = 212, unit: str = "groups") -> MetricValue:
    if width is None:
        return MetricValue(value=value, n=n, unit=unit)
    return MetricValue(value=value, low=value - width, high=value + 1.1 * width, n=n, unit=unit, seeds=[0])


def evaluation() -> EvalRecord:
    table = {  # domain fvu, general fvu, ce added (domain, general), ce recovered, l0, dead
        "base": (0.2874, 0.2413, 0.1683, 0.0921, 0.9621, 0.9789, 31.9, 0.0415),
        "base+residual": (0.2391, 0.2388, 0.1172, 0.0903, 0.9733, 0.9793, 35.7, 0.0467),
        "base+general residual": (0.2719, 0.2291, 0.1544, 0.0831, 0.9648, 0.981, 35.9, 0.0431),
        "untrained SAE": (0.9713, 0.9642, 3.92, 3.71, 0.112, 0.1302, 32.0, 0.0),
        "PCA, 32 components": (0.4912, 0.4413, 0.9312, 0.7421, 0.7871, 0.8252, None, None),
    }
    rows, differences = [], []
    for coder, cells in table.items():
        control = coder not in ("base", "base+residual")
        for index, dataset in enumerate(("domain", "general")):
            fvu, added, recovered = cells[index], cells[2 + index], cells[4 + index]
            values = {
                "fvu": measured(fvu, 0.04 * fvu), "explained_variance": measured(1 - fvu, 0.04 * fvu), "ce_increase_nats": measured(added, 0.05 * added),
                "ce_recovered_mean": measured(recovered, 0.004),
                **({"l0": measured(cells[6], 0.4), "dead_frac": measured(cells[7], None, 2048, "latents")} if cells[6] is not None else {}),
            }
            rows += [EvalRow(coder=coder, is_control=control, dataset=dataset, metric=metric, value=value) for metric, value in values.items()]
            if coder != "base":
                change = fvu - table["base"][index]
                differences.append(EvalRow(coder=coder, is_control=control, dataset=dataset, metric="fvu", value=measured(change, 0.003)))
    for dataset, change in (("domain", -0.1681), ("general", -0.0104)):
        differences.append(EvalRow(coder="base+residual", is_control=False, dataset=dataset, metric="fvu_change_frac", value=measured(change, 0.011)))
        rows.append(EvalRow(coder="subject", is_control=True, dataset=dataset, metric="ce_nats", value=measured(3.214, 0.05)))
        rows.append(EvalRow(coder="mean ablation", is_control=True, dataset=dataset, metric="fvu", value=measured(1.0, 0.001)))
    return EvalRecord(rows=rows, differences=differences, n_tokens={"general": 118_411, "domain": 41_207})


def context(rng: np.random.Generator, number: int) -> Context:
    tokens = [(" " if rng.random() < 0.6 and word.isalpha() else "") + word for word in rng.permutation(CODE)][: 30 + number]
    if number % 4 == 0:
        tokens[3] = str(rng.choice(NASTY))
    peak = min(20, len(tokens) - 1)
    activations = np.where(rng.random(len(tokens)) < 0.2, rng.random(len(tokens)) * 6, 0.0)
    activations[peak] = 7.3
    group = "asyncio/sslproto.py" if number % 2 else "ssl.py"
    return Context(example=f"{group}#{number}", group=group, tokens=tokens, activations=activations.round(3).tolist(), peak=peak)


def card(rng: np.random.Generator, source: str, latent: int) -> Card:
    rate = float(10 ** rng.uniform(-5.5, -1.2)) if rng.random() > 0.05 else 0.0
    domain = rate * float(10 ** rng.normal(0.9 if source == "residual" else 0.0, 0.4))
    explanation = None
    if rate > 0 and rng.random() < 0.8:
        f1, chance = float(rng.beta(2, 2.4)), float(rng.beta(1.4, 8))
        label = LABELS[int(rng.integers(len(LABELS)))]
        words = f"tokens with {label.replace('=', ' ')}" if latent % 7 else f"tokens with {NASTY[latent % len(NASTY)]}"
        explanation = Explanation(text=words, label=label, explainer="statistical", evidence=Evidence(
            precision=measured(min(0.99, f1 * 1.05), 0.05), recall=measured(f1 * 0.95, 0.06), f1=measured(f1, 0.05),
            control_f1=MetricValue(value=chance, low=0.5 * chance, high=min(1.0, 1.2 * chance), n=4, unit="shuffles"),
            threshold=1.31, n_fires=int(rate * 118_411) + 1, n_labelled=int(rng.integers(5, 9000)),
        ))
    supported = explanation is not None and explanation.evidence.f1.value > 0.5
    return Card(
        latent=latent, source=source, fire_rate=rate, domain_fire_rate=min(1.0, domain), max_activation=7.3, explanation=explanation,
        contexts=[context(rng, number) for number in range(8)] if supported else [],
        promotes=[" digest", "(", "\n", " hexdigest", ".", NASTY[0], " key", "sha256"], suppresses=[" the", ",", " of", NASTY[4]],
    )


def edit(rng: np.random.Generator, key: str) -> EditResult:
    before = [0.412, 0.171, 0.088, 0.031, 0.0214, 0.00007]
    after = [0.093, 0.224, 0.131, 0.049, 0.0287, 0.0311]
    texts = [" digest", "(", " hexdigest", "\n        ", NASTY[0], " new"]
    return EditResult(
        card=key, edit={"site": SITE, "latents": [int(key.split("/")[1])], "operation": "ablate", "amount": 0.0}, context=context(rng, 4),
        next_tokens=[NextToken(text=text, before=b, after=a) for text, b, a in zip(texts, before, after, strict=True)], next_actual=" digest",
        kl_nats=0.5317, side_effect_kl_nats=measured(0.00213, 0.0004), control_kl_nats=measured(0.000041, 0.00001),
    )


def log(n_tokens: int, start: float, end: float) -> list[dict]:
    steps = range(0, n_tokens, n_tokens // 180)
    return [{"step": step // 2048, "tokens": step, "mse": 1.0, "l0": 32.0, "n_dead": 3,
             "fvu": end + (start - end) * math.exp(-6 * step / n_tokens) + 0.004 * math.sin(step)} for step in steps]


def sae_record(role: str, n_latents: int, k: float) -> SaeRecord:
    return SaeRecord(
        architecture="batch_topk", role=role, site=SITE, subject=SUBJECT, store_fingerprint="77aa" * 16, d_in=256, n_latents=n_latents, k=k,
        l0=k - 0.13, n_dead=81, dead_after_tokens=500_000, n_tokens_seen=1_500_000 if role == "base" else 600_000, normalization="none", loss_scale="variance",
        config={"seed": 0}, parents=["b1d2" * 16] if role == "residual" else [],
    )


def make_report_data() -> ReportData:
    rng = np.random.default_rng(3)
    cards = [card(rng, "base", latent) for latent in range(1024)] + [card(rng, "residual", latent) for latent in range(256)]
    explained = [item.key for item in cards if item.contexts]
    recipe = {
        "name": "The demo: security and cryptography in the Python standard library",
        "select": {"method": "bm25", "seeds": ["ssl.py", "hmac.py", "hashlib.py", "secrets.py", "crypt.py"], "max_tokens": 260_000},
        "train": {"n_latents": 2048, "k": 32, "lr": 3e-4, "note": 'quote " and \\ and </pre><script>alert(2)</script>', "revision": None,
                  "nested": {"a b": [1, 2.5, True]}},
        "evaluate": {"n_bootstrap": 1000},
    }
    run = RunInfo(
        name=recipe["name"], recipe=recipe, machine="Intel Xeon, 2 cores, Linux", sparselight_version="0.1.0", created="2025-11-21",
        wall_s={"corpus": 2.13, "select": 4.42, "harvest": 61.2, "train": 74.9, "residual": 48.3, "evaluate": 39.4, "explain": 21.7, "intervene": 12.6},
    )
    return ReportData(
        run=run, evaluation=evaluation(), cards=cards, sae_records={"base": sae_record("base", 2048, 32), "residual": sae_record("residual", 256, 4)},
        logs={"base": log(1_500_000, 1.4, 0.24), "residual": log(600_000, 0.98, 0.83)},
        selection={"n_examples": 812, "n_tokens": 259_731, "terms": ["ssl", "digest", "hmac", "certificate", "<b>cipher</b>"], "groups": ["ssl.py", "hmac.py"]},
        corpus={"origin": "the standard library of Python 3.11", "n_groups": 1483, "n_examples": 11_932, "fingerprint": "c0ffee" * 10},
        edits=[edit(rng, key) for key in (explained[0], explained[-1])],
        next_command="sparselight run demo --set corpus.kind=text --set 'select.seeds=[\"FILE.txt\"]' --out runs/mine",
        harvest={"general_train_tokens": 1_000_331, "general_held_out_tokens": 120_114, "domain_train_tokens": 218_524, "domain_held_out_tokens": 41_207},
    )


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    return make_report_data()


@pytest.fixture(scope="session")
def measured_value() -> Callable[..., MetricValue]:
    return measured
