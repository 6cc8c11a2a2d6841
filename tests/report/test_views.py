"""Contexts on the page: cut round the peak, numbered as in the whole example, shown as their modality is."""

from sparselight.records import Context
from sparselight.report.views import WINDOW, WINDOWS, context_view


def long_context(**changes: object) -> Context:
    tokens = [chr(65 + index % 20) for index in range(100)]
    activations = [1.0 if index == 60 else 0.0 for index in range(100)]
    return Context(example="p1", group="family 1", tokens=tokens, activations=activations, peak=60, start=200, **changes)  # type: ignore[arg-type]


def test_residues_keep_their_positions_and_annotations_when_the_window_is_cut() -> None:
    marks = ["helix" if 58 <= index < 63 else "" for index in range(100)]
    shown = context_view(long_context(marks=marks), "residues").html
    assert f'<span class="position">{200 + 60 - WINDOW[0] + 1}</span>' in shown
    assert f'<span class="position">{200 + 60 + WINDOW[1] + 1}</span>' in shown
    assert '<span class="mark">259-263: helix</span>' in shown


def test_items_are_numbered_as_in_the_history() -> None:
    before, after = WINDOWS["items"]
    shown = context_view(long_context(), "items").html
    assert f'<ol class="history" start="{200 + 60 - before + 1}">' in shown
    assert shown.count("<li>") == before + after + 1


def test_whatever_the_modality_text_stays_text() -> None:
    hostile = Context(example="x", group="<b>g</b>", tokens=["<script>alert(1)</script>"], activations=[1.0], peak=0, marks=["<img src=x onerror=y>"])
    for modality in ("text", "residues", "items", "image"):
        shown = context_view(hostile, modality)
        assert "<script" not in shown.html
        assert "<img" not in shown.html
