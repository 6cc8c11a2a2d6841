"""The sentences of the page of a specialization. The wording follows the intervals: what may be 0 is not called a change, a control that does as well
is named, and a gain on the domain is never given without what it did to general text."""

from sparselight.records import MetricValue
from sparselight.report.numbers import count, interval, number, percent, with_interval
from sparselight.report.specialisation_data import BASE, SpecialisationData, Values, is_clear

SHORT = {"boost": "the residual SAE (boost)", "finetune": "full fine-tuning"}
FORGETS_FRAC = 0.01
"""Relative rise of the general fvu above which a variant is said to forget: what arXiv 2507.12990 calls negligible is less."""


def headline(data: SpecialisationData) -> list[str]:
    """The result in words, the first sentence first to be read."""
    main, found = data.main, Values.of(data.evaluation)
    if main is None:
        return ["Only the base SAE was measured: there is no variant to compare it with."]
    return [one for one in (_gain(main, found), _control(main, found), _forgetting(data, found), _equal_l0(data, main), _behaviour(main, found)) if one]


def signed(value: MetricValue | None) -> str:
    """A relative change with its interval."""
    if value is None:
        return "by an amount that was not measured"
    return f"{'+' if value.value > 0 else ''}{percent(value.value)} {interval(value, percent)}".strip()


def _name(variant: str) -> str:
    return SHORT.get(variant, variant)


def _gain(main: str, found: Values) -> str:
    base, own = (found.value(coder, "domain", "fvu") for coder in (BASE, main))
    domain, general = (found.change(main, dataset) for dataset in ("domain", "general"))
    if base is None or own is None:
        return "The domain fvu was not measured for the base and a variant, so there is no before and after."
    name = _name(main)
    verb = "does not clearly change" if not is_clear(domain) else "lowers" if domain is not None and domain.value < 0 else "raises"
    unsure = ", with no interval" if domain is not None and domain.low is None else ""
    first = f"{name[0].upper()}{name[1:]} {verb} the domain fvu: {number(base.value)} before, {number(own.value)} after ({signed(domain)}{unsure})"
    if general is None:
        return f"{first}; general text was not measured."
    return f"{first}; that of general text {'changes' if is_clear(general) else 'does not clearly change'} ({signed(general)})."


def _control(main: str, found: Values) -> str:
    control = found.change("boost_general", "domain")
    if main != "boost" or control is None:
        return "No control of the same size was trained on general text, so part of this may come from more latents alone."
    gap = found.change("boost", "domain", "fvu_change_frac", "boost_general")
    beyond = f"; against it training on the domain is worth {signed(gap)} of domain fvu" if gap is not None else ""
    own = found.change("boost", "domain")
    has_gain = own is not None and is_clear(own) and own.value < 0
    verdict = ": the gain cannot be put down to the domain" if has_gain and not (gap is not None and is_clear(gap) and gap.value < 0) else ""
    return f"The control, the same residual SAE trained on general text, changes the domain fvu by {signed(control)}{beyond}{verdict}."


def _forgetting(data: SpecialisationData, found: Values) -> str:
    """Who pays with general text, and who does not."""
    forgets: list[tuple[float, str]] = []
    keeps: list[tuple[float, str]] = []
    for name, variant in data.record.variants.items():
        change = found.change(name, "general")
        if name in (BASE, data.main) or variant.is_control or change is None:
            continue
        clear = is_clear(change) and change.value > FORGETS_FRAC
        (forgets if clear else keeps).append((change.value, f"{name} ({signed(change)})" if clear else name))
    worst, kept = _listed([words for _, words in sorted(forgets, reverse=True)]), _listed([words for _, words in sorted(keeps)])
    limit = f"by {percent(FORGETS_FRAC, 1)} or more of its fvu"
    if not forgets:
        return f"General text does not clearly get worse {limit} under {kept}." if keeps else ""
    return f"General text clearly gets worse under {worst}{f'; not clearly so under {kept}' if keeps else ''}."


def _equal_l0(data: SpecialisationData, main: str) -> str:
    """Whether the gain is one of more active latents alone."""
    found = Values.of(data.equal)
    domain, general = (found.change(main, dataset) for dataset in ("domain", "general"))
    if data.record.l0 is None or domain is None:
        return ""
    rivals = {name: change for name in data.record.variants if (change := found.change(name, "domain")) is not None}
    best = min(rivals, key=lambda name: rivals[name].value)
    words = [f"With thresholds moved so that all, the base too, use {number(data.record.l0)} latents a token on training text of the domain, {main} changes "
             f"the domain fvu by {signed(domain)}"]
    words += [f" and the general one by {signed(general)}"] if general is not None else []
    words += [f"; {best} changes the domain fvu most ({signed(rivals[best])})"] if best != main else []
    return f"{''.join(words)}."


def _behaviour(main: str, found: Values) -> str:
    """What the subject's predictions say."""
    before, after = (found.value(coder, "domain", "ce_increase_nats") for coder in (BASE, main))
    change = found.change(main, "domain", "ce_increase_nats")
    if before is None or after is None or change is None:
        return ""
    verb = "does not clearly change" if not is_clear(change) else "falls" if change.value < 0 else "rises"
    return (f"On the domain the cross entropy that replacing activations adds {verb}: {number(before.value)} nats a token before, {number(after.value)} after "
            f"(difference {with_interval(change)}).")


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def lead(data: SpecialisationData) -> str:
    """What was done, in one sentence."""
    record = data.record
    base, n = record.variants[BASE], len(record.variants) - 1
    seeds = [str(seed) for seed in record.selection.get("seeds") or []]
    domain = f": text like {', '.join(seeds[:4])}{f' and {len(seeds) - 4} more' if len(seeds) > 4 else ''}" if seeds else ""
    were = f"{n} variants were" if n != 1 else "One variant was"
    return (f"A base SAE of {base.n_latents:,} latents at {record.site} of {record.subject.name} was specialized to one domain{domain}. {were} made of it on "
            f"equal terms: {_config(data, 'n_new'):,} new latents, {record.k:g} active ones a token, {_config(data, 'n_tokens'):,} training tokens.")


def _config(data: SpecialisationData, name: str) -> int:
    return int(data.record.config.get("specialise", {}).get(name, 0))


def limits(data: SpecialisationData) -> list[str]:
    """What the page does not claim."""
    seed = _config(data, "seed")
    return [
        f"Everything here is about {data.record.subject.name} at {data.record.site} and this corpus.",
        f"Each variant was trained once (seed {seed}). Intervals say how values vary with the held-out text, not how they vary between trainings.",
        "Equal terms are equal sizes, steps and tokens, not the best settings of each method: another learning rate may serve one of them better.",
        "Moving thresholds to reach one l0 uses each SAE where it was not trained; values as trained stand beside it.",
        "The domain is what the selection found: how well it fits what was meant is for a reader of its sample to judge (`sparselight select`).",
    ]


def tokens_sentence(data: SpecialisationData) -> str:
    """On how much text it was trained and measured."""
    n = data.record.n_tokens
    held_out = ", ".join(f"{count(value)} {name}" for name, value in sorted(data.evaluation.n_tokens.items()))
    return (f"Training text: {count(n.get('domain_train'))} tokens of the domain, {count(n.get('general_train'))} of general text. Measured on held-out "
            f"tokens: {held_out}. Brackets are 95 % intervals over whole groups (files); differences to the base resample the same groups for both.")
