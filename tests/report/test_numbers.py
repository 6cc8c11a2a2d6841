"""How numbers become text."""

import pytest

from sparselight.records import MetricValue
from sparselight.report.numbers import compact, count, interval, number, percent, seconds, with_interval


@pytest.mark.parametrize(("value", "shown"), [
    (0.28743, "0.287"), (31.87, "31.9"), (12345.6, "12,346"), (0.0, "0"), (-0.0412, "\u22120.0412"), (0.9996, "1.00"), (1.0, "1.00"),
    (0.000041, "4.1\u00a0\u00d7\u00a010\u207b\u2075"), (None, "\u2013"), (float("nan"), "\u2013"), (float("inf"), "\u2013"),
])
def test_number(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(("value", "shown"), [
    (0.9621, "96.2\u00a0%"), (0.00123, "0.12\u00a0%"), (0.0, "0\u00a0%"), (3e-6, "<\u00a00.001\u00a0%"), (-0.168, "\u221216.8\u00a0%"), (None, "\u2013"),
])
def test_percent(value: float | None, shown: str) -> None:
    assert percent(value) == shown


def test_counts_and_durations() -> None:
    assert [compact(value) for value in (812, 11_932, 118_411, 1_500_000)] == ["812", "11.9\u00a0K", "118\u00a0K", "1.50\u00a0M"]
    assert count(259_731) == "259,731"
    assert [seconds(value) for value in (2.13, 61.2, 264.3)] == ["2.1\u00a0s", "61\u00a0s", "4\u00a0min\u00a024\u00a0s"]


def test_an_interval_has_the_decimals_of_its_value_and_never_two_equal_ends() -> None:
    assert interval(MetricValue(value=0.2874, low=0.27593, high=0.30006, n=9)) == "[0.276, 0.300]"
    assert interval(MetricValue(value=-0.0483, low=-0.0513, high=-0.045, n=9)) == "[\u22120.0513, \u22120.0450]"
    assert interval(MetricValue(value=31.9, low=31.86, high=31.94, n=9)) == "[31.86, 31.94]"
    assert interval(MetricValue(value=0.9621, low=0.9581, high=0.9665, n=9), percent) == "[95.8, 96.7]\u00a0%"
    assert interval(MetricValue(value=0.0, low=0.0, high=0.0, n=9)) == "[0, 0]"
    assert interval(MetricValue(value=0.5, n=9)) == ""
    assert with_interval(MetricValue(value=0.5, n=9)) == "0.500"
