"""Numbers as people read them: three significant digits, percentages, counts with separators, intervals, durations.

Owns the one place where a float of a record becomes text. An interval is written with the decimals of its value, so that the
three numbers line up. Values that are missing or not finite become a dash.
"""

import math
from collections.abc import Callable

from sparselight.records import MetricValue

DASH = "\u2013"
MINUS = "\u2212"
TIMES = "\u00d7"
NBSP = "\u00a0"
SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
TINY = 1e-4  # below it, a power of ten is easier to read than the zeros

Format = Callable[[float | None], str]


def number(value: float | None, digits: int = 3) -> str:
    """A plain number to `digits` significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    if value != 0 and abs(value) < TINY:
        exponent = math.floor(math.log10(abs(value)))
        return f"{signed(f'{value / 10**exponent:.{digits - 2}f}')}{NBSP}{TIMES}{NBSP}10{str(exponent).translate(SUPERSCRIPTS)}"
    return fixed(value, decimals(value, digits))


def percent(value: float | None, digits: int = 3) -> str:
    """A fraction as a percentage; below 1 % with one significant digit fewer."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < abs(value) < 1e-5:
        return f"<{NBSP}0.001{NBSP}%"
    return f"{fixed(100 * value, decimals(100 * value, digits - (abs(value) < 0.01)))}{NBSP}%"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return DASH if value is None else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """A count in few characters: 12,345 as 12.3 K."""
    if value is None:
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= size:
            size = 1e3 if unit == "K" else size
            return f"{fixed(value / size, decimals(value / size, 3))}{NBSP}{unit}"
    return count(value)


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return DASH
    if value < 100:
        return f"{fixed(value, 1 if value < 10 else 0)}{NBSP}s"
    return f"{int(value // 60)}{NBSP}min{NBSP}{int(value % 60)}{NBSP}s"


def interval(value: MetricValue, form: Format = number) -> str:
    """The 95 % interval in brackets, or an empty string where there is none."""
    if value.low is None or value.high is None:
        return ""
    scale, unit = (100, f"{NBSP}%") if form is percent else (1, "")
    numbers = [scale * item for item in (value.value, value.low, value.high)]
    if max(map(abs, numbers)) < TINY:
        return f"[{form(value.low)}, {form(value.high)}]"
    places = min(decimals(item, 3) for item in numbers if abs(item) >= TINY)
    while places < 6 and fixed(numbers[1], places) == fixed(numbers[2], places) and numbers[1] != numbers[2]:
        places += 1
    return f"[{fixed(numbers[1], places)}, {fixed(numbers[2], places)}]{unit}"


def with_interval(value: MetricValue, form: Format = number) -> str:
    """Value and interval in one line."""
    return f"{form(value.value)} {interval(value, form)}".strip()


def decimals(value: float, digits: int) -> int:
    """How many decimals show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}")))))


def fixed(value: float, places: int) -> str:
    """A number with fixed decimals, a proper minus sign, and no sign on zero."""
    text = f"{value:,.{places}f}"
    return signed(text.removeprefix("-") if float(text.replace(",", "")) == 0 else text)


def signed(text: str) -> str:
    return text.replace("-", MINUS)
