"""The words of the result follow the intervals."""

from sparselight.records import EvalRecord, EvalRow, MetricValue
from sparselight.report import ReportData
from sparselight.report.headline import COLUMNS, headline_sentences, key_numbers, loss_warnings, table_rows


def row(coder: str, value: float, low: float | None = None, high: float | None = None, metric: str = "fvu", control: bool = False) -> EvalRow:
    return EvalRow(coder=coder, is_control=control, dataset="domain", metric=metric, value=MetricValue(value=value, low=low, high=high, n=5))


def sentences(difference: EvalRow, *controls: EvalRow) -> list[str]:
    return headline_sentences(EvalRecord(rows=[row("base", 0.3), row("base+residual", 0.2), *controls], differences=[difference], n_tokens={}))


def test_a_clear_fall_a_rise_and_neither() -> None:
    assert sentences(row("base+residual", -0.1, -0.12, -0.08))[0] == (
        "The residual SAE lowers the domain fvu from 0.300 to 0.200 (difference \u22120.100 [\u22120.120, \u22120.080])."
    )
    assert "raises the domain fvu" in sentences(row("base+residual", 0.1, 0.08, 0.12))[0]
    assert "does not clearly change" in sentences(row("base+residual", -0.1, -0.22, 0.02))[0]
    assert "does not clearly change" in sentences(row("base+residual", -0.1))[0]


def test_a_control_that_does_as_well_is_named() -> None:
    clear = row("base+residual", -0.1, -0.12, -0.08)
    assert "cannot be put down" not in sentences(clear, row("PCA", 0.4, control=True))[-1]
    assert "PCA leaves no more of the domain unexplained" in sentences(clear, row("PCA", 0.19, control=True))[-1]
    assert sentences(clear, row("mean ablation", 0.1, control=True))[-1] == "No control was measured."
    assert sentences(clear)[-1] == "No control was measured."


def test_a_figure_that_a_control_reaches_too_is_no_achievement() -> None:
    def recovered(coder: str, value: float, low: float | None = None, high: float | None = None, control: bool = False) -> EvalRow:
        return row(coder, value, low, high, "ce_recovered_mean", control)

    def warnings(*rows: EvalRow, differences: tuple[EvalRow, ...] = ()) -> list[str]:
        return loss_warnings(EvalRecord(rows=list(rows), differences=list(differences), n_tokens={}))

    base, untrained = recovered("base", 0.99, 0.985, 0.995), recovered("untrained SAE", 0.988, 0.98, 0.99, control=True)
    said = warnings(base, untrained)
    assert said == ["CE recovered says nothing here: on domain text untrained SAE recovers 98.8\u00a0% [98.0, 99.0]\u00a0% of the model's loss, not "
                    "clearly less than base 99.0\u00a0% [98.5, 99.5]\u00a0%. Go by the other figures, and by the features' evidence."]
    assert warnings(base, untrained, differences=(recovered("untrained SAE", -0.002, -0.004, 0.001),)) == said
    assert warnings(base, untrained, differences=(recovered("untrained SAE", -0.002, -0.003, -0.001),)) == []  # the pair says more than the two intervals
    assert warnings(base, recovered("PCA", 0.7, 0.6, 0.8, control=True)) == []
    assert warnings(base, recovered("base+general residual", 0.999, control=True), recovered("base+residual", 0.98)) == []  # trained too: a rival, no control
    assert said[0] in headline_sentences(EvalRecord(rows=[row("base", 0.3), row("base+residual", 0.2), base, untrained], differences=[], n_tokens={}))
    assert said[0] in headline_sentences(EvalRecord(rows=[base, untrained], differences=[], n_tokens={}))


def test_without_a_residual_sae_there_is_no_comparison() -> None:
    assert "no residual SAE" in headline_sentences(EvalRecord(rows=[row("base", 0.3)], differences=[], n_tokens={}))[0]
    assert "no residual SAE" in headline_sentences(EvalRecord(rows=[], differences=[], n_tokens={}))[0]


def test_the_measured_relative_change_comes_before_a_computed_one() -> None:
    rows = [row("base", 0.4), row("base+residual", 0.3)]
    difference = row("base+residual", -0.1, -0.12, -0.08)
    computed = key_numbers(EvalRecord(rows=rows, differences=[difference], n_tokens={}), 1, 0)[0]
    assert (computed.value, computed.note) == ("\u221225.0\u00a0%", "[\u221230.0, \u221220.0]\u00a0% relative to the base SAE")
    measured = row("base+residual", -0.24, -0.31, -0.19, metric="fvu_change_frac")
    assert key_numbers(EvalRecord(rows=rows, differences=[difference, measured], n_tokens={}), 1, 0)[0].value == "\u221224.0\u00a0%"


def test_the_table_has_every_coder_with_a_value_controls_last(report_data: ReportData) -> None:
    rows = table_rows(report_data.evaluation)
    assert [item.coder for item in rows][:2] == ["base", "base+residual"]
    assert [item.is_control for item in rows] == sorted(item.is_control for item in rows)
    assert "subject" not in [item.coder for item in rows]
    assert all(len(item.cells) == len(COLUMNS) for item in rows)
    assert (rows[0].cells[0].value, rows[0].cells[0].interval) == ("0.287", "[0.276, 0.300]")
    dead = rows[0].cells[-1]
    assert (dead.value, dead.interval) == ("4.15\u00a0%", "")
