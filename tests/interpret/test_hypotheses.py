"""Labels of tokens, checked token by token on small texts."""

import numpy as np
import pytest

from sparselight.interpret.hypotheses import Family, describe, find_families, make_hypotheses
from sparselight.interpret.tokens import SetSlice, TokenFrame, sample_examples
from sparselight.protocols import Example, Span


def frame_of(examples, pieces):
    """A frame over texts that are cut into the given pieces."""
    vocabulary: dict[str, int] = {}
    rows = []
    for number, cut in enumerate(pieces):
        offset = 0
        for position, piece in enumerate(cut):
            assert examples[number].text[offset : offset + len(piece)] == piece
            rows.append((number, position, vocabulary.setdefault(piece, len(vocabulary)), offset, offset + len(piece)))
            offset += len(piece)
    example, position, token_id, start, end = np.array(rows).T
    frame = TokenFrame(sets=(SetSlice("general", "explain", 0, len(rows)),), n_explain=len(rows), rows=np.arange(len(rows)),
                       example=example, group=example, position=position, token_id=token_id, char_start=start, char_end=end,
                       examples=tuple(examples), groups=tuple(item.group for item in examples))
    return frame, list(vocabulary).__getitem__


def values_of(families, name):
    family = next(family for family in families if family.name == name)
    return [None if code < 0 else family.values[code] for code in family.codes.tolist()]


CODE = Example("a", "import Get_value\n  (x) # hi there", "g", {"package": "asyncio", "word": "clash"},
               (Span(0, 6, "token_class", "keyword"), Span(7, 16, "token_class", "name"), Span(23, 33, "token_class", "comment")))
PLAIN = Example("b", "tail of", "h")


@pytest.fixture(scope="module")
def code_families():
    frame, token_text = frame_of([CODE, PLAIN], [["imp", "ort", " Get", "_", "value", "\n  ", "(", "x", ")", " #", " hi", " there"], ["tail", " of"]])
    return find_families(frame, token_text)


def test_words_and_what_stands_before_them(code_families):
    assert values_of(code_families, "word") == ["import", "import", "get", None, "value", None, None, "x", None, None, "hi", "there", "tail", "of"]
    assert values_of(code_families, "after") == [None, None, "import", "get", "get", "value", "value", "value", "x", "x", "x", "hi", None, "tail"]
    assert values_of(code_families, "piece")[:7] == ["imp", "ort", "get", None, "value", None, "("]
    assert values_of(code_families, "token")[2] == " Get"


def test_first_word_of_the_line(code_families):
    assert values_of(code_families, "line") == ["import"] * 6 + ["x"] * 6 + ["tail"] * 2


def test_spans_need_half_of_the_characters_that_are_not_blank(code_families):
    assert values_of(code_families, "token_class") == ["keyword"] * 2 + ["name"] * 3 + [None] * 4 + ["comment"] * 3 + [None] * 2


def test_blank_tokens_inside_a_span_carry_its_label():
    example = Example("a", '"a\n  b"', "g", {}, (Span(0, 7, "token_class", "docstring"),))
    frame, token_text = frame_of([example], [['"a', "\n  ", 'b"']])
    assert values_of(find_families(frame, token_text), "token_class") == ["docstring"] * 3


def test_two_tokens_two_words_and_tokens_inside_spans(code_families):
    arrow = "\u2192"
    assert values_of(code_families, "behind")[:3] == [None, "imp", "ort"]
    assert values_of(code_families, "behind")[12:] == [None, "tail"]  # never across examples
    assert values_of(code_families, "tokens")[1] == f"imp{arrow}ort"
    assert values_of(code_families, "words")[:5] == [None, None, f"import{arrow}get", None, f"get{arrow}value"]
    inside = values_of(code_families, "piece in token_class")[:6]
    assert inside == [f"imp{arrow}keyword", f"ort{arrow}keyword", f"get{arrow}name", None, f"value{arrow}name", None]


def test_near_holds_telling_words_only_and_none_twice():
    texts = ["common rare x y", *("common z" for _ in range(20))]
    examples = [Example(str(number), text, str(number)) for number, text in enumerate(texts)]
    frame, token_text = frame_of(examples, [["common", " rare", " x", " y"], *(["common", " z"] for _ in range(20))])
    near = next(family for family in find_families(frame, token_text) if family.name == "near")
    held = [sorted(near.values[code] for code in column if code >= 0) for column in near.codes.T.tolist()]
    assert held[:4] == [[], [], ["rare"], ["rare", "x"]]  # `common` stands in every group
    assert all(len(set(words)) == len(words) for words in held)


def test_rare_pairs_are_left_out():
    examples = [Example(name, "one two", name) for name in "ab"]
    frame, token_text = frame_of(examples, [["one", " two"], ["one", " two"]])
    assert next(family for family in find_families(frame, token_text, 2) if family.name == "tokens").values == ("one\u2192 two",)
    assert next(family for family in find_families(frame, token_text, 3) if family.name == "tokens").values == ()


def test_example_labels_of_any_name_become_families(code_families):
    assert values_of(code_families, "package") == ["asyncio"] * 12 + [None] * 2
    assert values_of(code_families, "label_word") == ["clash"] * 12 + [None] * 2


def test_other_modalities_and_scripts_work():
    protein = Example("p", "MKVCC", "fam", {"organism": "human"}, (Span(2, 4, "region", "zinc finger"), Span(1, 5, "position", "clash")))
    greek = Example("q", "\u03b1\u03b2 \U0001f600 \u03b3", "fam2")
    frame, token_text = frame_of([protein, greek], [list("MKVCC"), ["\u03b1\u03b2", " \U0001f600", " \u03b3"]])
    families = find_families(frame, token_text)
    assert values_of(families, "region")[:5] == [None, None, "zinc finger", "zinc finger", None]
    assert values_of(families, "span_position")[:5] == [None, "clash", "clash", "clash", "clash"]
    assert values_of(families, "after")[5:] == [None, "\u03b1\u03b2", "\u03b1\u03b2"]
    assert values_of(families, "word")[5:] == ["\u03b1\u03b2", None, "\u03b3"]
    assert values_of(families, "line")[5:] == ["\u03b1\u03b2"] * 3


def test_text_without_any_word_or_span():
    frame, token_text = frame_of([Example("a", "()", "g")], [["(", ")"]])
    families = find_families(frame, token_text)
    assert values_of(families, "word") == values_of(families, "after") == values_of(families, "line") == [None, None]


def test_hypotheses_need_support_among_the_explain_tokens(code_families):
    hypotheses = make_hypotheses(code_families, np.zeros(14, dtype=int), n_explain=6, min_support=2, min_groups=1)
    assert "word=import" in hypotheses.labels
    assert "after=x" not in hypotheses.labels  # three tokens, none of them an explain token
    assert list(hypotheses.columns.rank) == sorted(hypotheses.columns.rank)
    column = hypotheses.labels.index("word=import")
    assert np.flatnonzero((hypotheses.columns.values == column).any(axis=0)).tolist() == [0, 1]


def test_hypotheses_need_more_than_one_group():
    examples = [Example(name, "same " + name, name, {"module": name}) for name in ("one", "two", "three")]
    frame, token_text = frame_of(examples, [["same", " " + example.id] for example in examples])
    families = find_families(frame, token_text)

    def labels(n_explain, min_groups):
        return set(make_hypotheses(families, frame.group, n_explain, 1, min_groups).labels)

    assert {"word=same", "module=one", "word=three"} <= labels(6, 1)
    assert labels(6, 3) == {"word=same", "piece=same", "token=same", "after=same", "line=same", "position=1", "position=2", "behind=same"}
    assert labels(4, 3) == set()


@pytest.mark.parametrize(("name", "kind", "value", "text"), [
    ("word", "text", "certificate", "the word `certificate`"),
    ("token", "text", " ssl\n", "the token ` ssl\\n`"),
    ("after", "text", "import", "after the word `import`"),
    ("position", "text", "1", "the first token of an example"),
    ("position", "text", "3", "token 3 of an example"),
    ("line", "text", "def", "on lines whose first word is `def`"),
    ("token_class", "span", "docstring", "docstring"),
    ("transmembrane region", "span", "helix", "transmembrane region: helix"),
    ("signal peptide", "span", "signal peptide", "signal peptide"),
    ("package", "label", "asyncio", "anywhere in package asyncio"),
    ("behind", "conjunction", "(\n", "right after the token `(\\n`"),
    ("near", "conjunction", "socket", "up to 8 words after `socket`"),
    ("words", "conjunction", "import\u2192ssl", "the word `ssl` after `import`"),
    ("tokens", "conjunction", " a\u2192.", "the token `.` right after ` a`"),
    ("piece in token_class", "conjunction", "key\u2192line_comment", "`key` in line comment"),
    ("piece in transmembrane region", "conjunction", "i\u2192helix", "`i` in transmembrane region: helix"),
    ("piece in signal peptide", "conjunction", "l\u2192signal peptide", "`l` in signal peptide"),
])
def test_descriptions(name, kind, value, text):
    assert describe(name, kind, value) == text


def test_pieces_of_one_letter_are_called_letters():
    hypotheses = make_hypotheses([Family("piece", "text", np.array([0, 1, 0]), ("a", "c"))], np.array([0, 1, 2]), 3, 1, 1)
    assert set(hypotheses.texts) == {"the letter `A`", "the letter `C`"}
    inside = Family("piece in transmembrane region", "conjunction", np.array([0, 1, 0]), ("a\u2192helix", "c\u2192helix"))
    both = make_hypotheses([Family("piece", "text", np.array([0, 1, 0]), ("a", "c")), inside], np.array([0, 1, 2]), 3, 1, 1)
    assert both.texts[2:] == ("the letter `A` in transmembrane region: helix", "the letter `C` in transmembrane region: helix")


def test_sample_takes_whole_examples_from_every_group_first():
    example = np.repeat(np.arange(10), 10)  # group "big" holds 8 of the 10 examples
    group = ["big"] * 8 + ["one", "two"]
    chosen = sample_examples(example, group.__getitem__, 45, np.random.default_rng(0))
    assert len(chosen) == 4
    assert {8, 9} <= set(chosen.tolist())
    assert sample_examples(example, group.__getitem__, 100, np.random.default_rng(0)).tolist() == list(range(10))
    assert len(sample_examples(example, group.__getitem__, 3, np.random.default_rng(0))) == 1
