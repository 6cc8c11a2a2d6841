"""HTML and prompts of contexts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselight.errors import ConfigError
from sparselight.interpret import TextRenderer
from sparselight.interpret.renderers import RENDERERS, ImageRenderer, renderer_for
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


def test_residues_have_positions_and_annotations():
    context = context_of(list("CPEC"), [0.0, 2.0, 1.0, 0.0], peak=1).model_copy(update={"start": 10, "marks": ["", "zinc finger", "zinc finger", "helix"]})
    renderer = renderer_for("residues")
    assert renderer.prompt(context) == "11-14: C<<PE>>C\n12-13: zinc finger\n14: helix"
    page = renderer.html(context)
    assert 'title="P12 zinc finger: 2"' in page
    assert '<span class="mark">12-13: zinc finger</span>' in page
    assert renderer.prompt(context_of(["M"], [1.0])) == "1-1: <<M>>"


def test_items_are_a_numbered_history():
    context = context_of(["Heat (1995)", "Alien <1979>"], [0.0, 3.0], peak=1).model_copy(update={"start": 4, "marks": ["Crime; Drama", ""]})
    renderer = renderer_for("items")
    assert renderer.prompt(context) == "5. Heat (1995) (Crime; Drama)\n6. <<Alien <1979>>>"
    assert renderer.html(context).startswith('<ol class="history" start="5"><li><span class="token">Heat (1995)</span>')
    assert "Alien &lt;1979&gt;" in renderer.html(context)
    assert '<span class="mark">Crime; Drama</span>' in renderer.html(context)


def test_images_show_patches_and_the_report():
    context = context_of(["p"] * 6 + ["no", " effusion"], [0, 0, 1.0, 0, 0, 2.0, 0, 1.0], peak=5)
    context = context.model_copy(update={"grid": (2, 3), "media": "images/a.png"})
    renderer = renderer_for("image")
    assert renderer.prompt(context) == ("image (2 rows, 3 columns): fires on 2 of 6 patches, most of all middle right: row 2 column 3, row 1 column 3\n"
                                        "text: no<< effusion>>")
    page = renderer.html(context)
    assert page.count("<rect ") == 3 and '<image href="images/a.png"' in page  # two active patches and a frame around the strongest
    assert '<rect x="2" y="1" width="1" height="1" fill="none"' in page and 'fill="rgba(255,140,0,0.33)"' in page
    assert 'role="img" aria-label="picture of 2 x 3 patches; fires on 2 of 6 patches, most of all middle right"' in page
    shown = '<span class="token">no</span><span class="token" style="background:rgba(255,140,0,0.85)" title="1"> effusion</span>'
    assert page.endswith(f'<span class="report">{shown}</span></span>')
    assert renderer.prompt(context_of(["a"], [1.0])) == "<<a>>"
    for media in ("http://elsewhere/a.png", "javascript:alert(1)", "../a.png", "/etc/a.png", None):
        assert "<image" not in renderer.html(context.model_copy(update={"media": media}))


def test_without_patches_a_picture_stands_beside_the_report_as_it_is():
    context = context_of(["FINDINGS", ":", "\n", "clear"], [0, 0, 0, 1.0]).model_copy(update={"media": "media/a.png"})
    page = renderer_for("image").html(context)
    assert '<image href="media/a.png" width="1" height="1"/>' in page and "<rect" not in page
    assert page.count("<br>") == 1 and page.index("<br>") < page.index("clear")
    assert ImageRenderer(lambda media: f"data:x,{media}").html(context).count('href="data:x,media/a.png"') == 1
    assert "<svg" not in ImageRenderer(lambda _media: "").html(context)


@given(st.sampled_from(sorted(RENDERERS)), st.lists(st.tuples(st.text(), st.floats(0, 1e6), st.text()), min_size=4, max_size=6), st.text())
def test_no_renderer_lets_markup_through(modality, triples, media):
    tokens, activations, marks = (list(column) for column in zip(*triples, strict=True))
    context = context_of(tokens, activations).model_copy(update={"marks": marks, "grid": (2, 2), "media": media})
    page = renderer_for(modality).html(context)
    known = r"</?(span|ol|li|svg|rect|image|title|br)( [a-z-]+=\"[^\"<>]*\"| [A-Za-z]+=\"[^\"<>]*\")*/?>"
    inner = re.sub(known, "", page)
    assert "<" not in inner and ">" not in inner


def test_an_unknown_modality_is_refused():
    with pytest.raises(ConfigError, match="use 'image'"):
        renderer_for("images")
