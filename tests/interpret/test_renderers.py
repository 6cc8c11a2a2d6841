"""HTML and prompts of contexts."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sparselight.interpret import TextRenderer
from sparselight.records import Context


def context_of(tokens, activations, peak=0):
    return Context(example="e", group="g", tokens=tokens, activations=activations, peak=peak)


def test_markup_in_a_token_is_escaped():
    page = TextRenderer().html(context_of(["<script>alert(1)</script>", '" onload="x', "&amp;"], [1.0, 0.5, 0.0]))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '" onload' not in page
    assert "&amp;amp;" in page


@given(st.lists(st.tuples(st.text(), st.floats(0, 1e6)), min_size=1))
def test_page_holds_only_our_spans_whatever_the_tokens(pairs):
    page = TextRenderer().html(context_of([token for token, _ in pairs], [value for _, value in pairs]))
    inner = re.sub(r'<span class="token( peak)?"( style="background:rgba\(255,140,0,0\.\d\d\)" title="[0-9.e+-]+")?>|</span>', "", page)
    assert "<" not in inner and ">" not in inner and '"' not in inner and "\n" not in inner


def test_opacity_follows_the_activation_and_newlines_are_visible():
    page = TextRenderer().html(context_of(["a", "\n", "b"], [2.0, 1.0, 0.0], peak=0))
    assert '<span class="token peak" style="background:rgba(255,140,0,0.85)" title="2">a</span>' in page
    assert 'rgba(255,140,0,0.42)" title="1">\u21b5</span>' in page
    assert '<span class="token">b</span>' in page


def test_prompt_marks_runs_of_active_tokens():
    renderer = TextRenderer()
    assert renderer.prompt(context_of(["a", " b", " c", " d"], [0, 1, 1, 0])) == "a<< b c>> d"
    assert renderer.prompt(context_of(["a", " b"], [1, 1])) == "<<a b>>"
    assert renderer.prompt(context_of(["a", " b"], [0, 0])) == "a b"
