"""The page of a specialization: its words follow the intervals, its figures draw what is there, nothing on it runs."""

import pyarrow as pa
import pytest

from sparselight.records import EvalRecord, EvalRow, MetricValue, SpecialisationRecord, SubjectRef, TokenPolicy, VariantRecord
from sparselight.report.specialisation import render_specialisation, table
from sparselight.report.specialisation_data import SpecialisationData, Values, looks
from sparselight.report.specialisation_figures import coverage_by_frequency, more_text, trade_off
from sparselight.report.specialisation_words import headline

SUBJECT = SubjectRef(name="tiny", fingerprint="f" * 64, token_policy=TokenPolicy(context_tokens=64, prepend_bos=True, count_specials=False), kind="causal_lm")
Range = tuple[float, float, float]


def value(numbers: Range | float) -> MetricValue:
    if isinstance(numbers, float):
        return MetricValue(value=numbers, n=1)
    low, middle, high = numbers
    return MetricValue(value=middle, low=low, high=high, n=20)


def evaluation(changes: dict[str, tuple[Range | float, Range | float]], pairs: dict[tuple[str, str], Range] | None = None) -> EvalRecord:
    """fvu 0.5 of the base, and relative changes (domain, general) of the others."""
    rows = [EvalRow(coder="base", is_control=False, dataset=dataset, metric="fvu", value=value((0.4, 0.5, 0.6))) for dataset in ("domain", "general")]
    differences = []
    for coder, sides in changes.items():
        for dataset, change in zip(("domain", "general"), sides, strict=True):
            middle = value(change).value
            rows.append(EvalRow(coder=coder, is_control=coder == "boost_general", dataset=dataset, metric="fvu", value=value(0.5 * (1 + middle))))
            rows.append(EvalRow(coder=coder, is_control=False, dataset=dataset, metric="l0", value=value(4.0)))
            differences += [EvalRow(coder=coder, is_control=False, dataset=dataset, metric=metric, value=value(change), reference="base")
                            for metric in ("fvu_change_frac", "fvu")]
    for (coder, reference), change in (pairs or {}).items():
        differences.append(EvalRow(coder=coder, is_control=False, dataset="domain", metric="fvu_change_frac", value=value(change), reference=reference))
    return EvalRecord(rows=rows, differences=differences, n_tokens={"general": 1000, "domain": 900})


def data(found: EvalRecord, names: list[str], **changes: object) -> SpecialisationData:
    variants = {name: VariantRecord(what=f"what {name} is", trained_on="domain", is_control=name == "boost_general", n_latents=64, n_new=16, weights="w")
                for name in ("base", *names)}
    fields = {"name": "a <b>domain</b>", "subject": SUBJECT, "site": "resid_post.1", "d_in": 32, "base": "sae", "variants": variants, "advised_tokens": 10,
              "n_tokens": {"domain_train": 5, "general_train": 9}, "k": 6.0, "evaluation": "evaluation/evaluation.json",
              "config": {"specialise": {"n_new": 16, "k_new": 2.0, "n_tokens": 2048, "seed": 0}}, "selection": {"seeds": ["<script>x</script>"]}}
    parts = {"equal": None, "budgets": None, "cards": [], "coverage_bins": None, "next_command": "sparselight compare out"}
    own = {name: change for name, change in changes.items() if name in parts}
    record = SpecialisationRecord.model_validate({**fields, **{name: change for name, change in changes.items() if name not in parts}})
    return SpecialisationData(record=record, evaluation=found, **{**parts, **own})  # type: ignore[arg-type]


GAIN = (-0.12, -0.10, -0.08)
NOTHING = (-0.02, 0.01, 0.03)
LOSS = (0.05, 0.09, 0.12)


def test_a_gain_is_given_with_its_price_and_its_control():
    found = evaluation({"boost": (GAIN, NOTHING), "boost_general": (NOTHING, NOTHING), "finetune": (GAIN, LOSS), "grafted": (NOTHING, NOTHING)},
                       {("boost", "boost_general"): GAIN})
    sentences = headline(data(found, ["boost", "boost_general", "finetune", "grafted"]))
    assert "lowers the domain fvu: 0.500 before, 0.450 after" in sentences[0]
    assert "that of general text does not clearly change" in sentences[0]
    assert "worth \u221210.0" in sentences[1]
    assert "cannot be put down" not in sentences[1]
    assert sentences[2].startswith("General text clearly gets worse under finetune (+9.00")
    assert sentences[2].endswith("not clearly so under grafted.")


def test_what_may_be_nothing_is_not_called_a_gain():
    found = evaluation({"boost": (NOTHING, NOTHING), "boost_general": (NOTHING, NOTHING)}, {("boost", "boost_general"): NOTHING})
    sentences = headline(data(found, ["boost", "boost_general"]))
    assert "does not clearly change the domain fvu" in sentences[0]
    as_good = evaluation({"boost": (GAIN, NOTHING), "boost_general": (GAIN, NOTHING)}, {("boost", "boost_general"): NOTHING})
    assert "the gain cannot be put down to the domain" in headline(data(as_good, ["boost", "boost_general"]))[1]
    alone = headline(data(evaluation({"boost": (GAIN, NOTHING)}), ["boost"]))
    assert "No control" in alone[1]
    assert "with no interval" in headline(data(evaluation({"boost": (-0.1, -0.1)}), ["boost"]))[0]


def test_another_variant_that_gains_more_at_one_l0_is_named():
    found = evaluation({"boost": (GAIN, NOTHING), "finetune": (GAIN, LOSS)})
    equal = evaluation({"boost": (NOTHING, NOTHING), "finetune": (GAIN, LOSS)})
    sentence = next(one for one in headline(data(found, ["boost", "finetune"], equal=equal, l0=36.0)) if "thresholds moved" in one)
    assert "finetune changes the domain fvu most" in sentence


def test_only_the_base_leaves_nothing_to_say():
    assert headline(data(evaluation({}), [])) == ["Only the base SAE was measured: there is no variant to compare it with."]
    assert "there is nothing to draw" in render_specialisation(data(evaluation({}), []))


def test_a_difference_is_marked_only_where_it_is_clear():
    found = evaluation({"boost": (GAIN, LOSS), "finetune": (NOTHING, NOTHING)})
    shown = data(found, ["boost", "finetune"])
    rows = {row.name: row.cells for row in table(Values.of(found), shown, ["base", "boost", "finetune"])}
    assert [rows["boost"][0].verdict, rows["boost"][5].verdict] == ["better", "worse"]
    assert [rows["finetune"][0].verdict, rows["finetune"][5].verdict] == ["", ""]
    assert rows["base"][0].difference == ""


@pytest.mark.parametrize("far", [3.0, 0.08])
def test_a_variant_far_outside_stands_at_the_edge(far: float):
    names = ["boost", "finetune", "scratch_domain"]
    found = evaluation({"boost": (GAIN, NOTHING), "finetune": (GAIN, LOSS), "scratch_domain": (GAIN, (far - 0.01, far, far + 0.01))})
    figure = trade_off(Values.of(found), names, looks(data(found, names).record.variants), "trained", "as trained")
    assert figure is not None
    assert ("scratch_domain: 300 % general" in figure.replace("\u00a0", " ")) == (far == 3.0)


def test_amounts_of_text_make_a_curve():
    names = ["boost, 100 tokens", "boost, 200 tokens", "boost"]
    budgets = evaluation(dict.fromkeys(names, (GAIN, NOTHING)))
    shown = data(evaluation({"boost": (GAIN, NOTHING)}), ["boost"], budgets=budgets)
    assert more_text(shown) is None
    record = shown.record.model_copy(update={"budgets": dict(zip(names, (100, 200, 400), strict=True))})
    figure = more_text(SpecialisationData(record, shown.evaluation, None, budgets, [], None, ""))
    assert figure is not None
    assert figure.count("<title>domain") == 3


def test_the_page_escapes_and_says_what_is_missing():
    bins = pa.Table.from_pylist([
        {"coder": coder, "dataset": "domain", "level": "token ids", "from_count": start, "n_measured": 3, "mean_recall": 0.5}
        for coder in ("base", "boost") for start in (4, 8)])
    found = evaluation({"boost": (GAIN, NOTHING)})
    page = render_specialisation(data(found, ["boost"], coverage_bins=bins, warnings=["few <i>tokens</i>"]))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<i>tokens" not in page
    assert "a <b>domain" not in page
    figure = coverage_by_frequency(data(found, ["boost"], coverage_bins=bins), "token ids", ["base", "boost"], looks(data(found, ["boost"]).record.variants))
    assert figure is not None
    assert "Recall of concepts by frequency" in figure
    for words in ("were not measured at one l0", "Coverage was not measured", "No smaller amounts were tried", "there is nothing to explain"):
        assert words in page
