"""Contexts and hypotheses over patches of images: which tokens a context shows, whose activations, what patches are called."""

import numpy as np
import pytest
import torch

from sparselight.interpret import load_catalogue, save_catalogue
from sparselight.interpret.contexts import Windows
from sparselight.interpret.hypotheses import find_families, make_hypotheses
from sparselight.interpret.patches import Picture, WholeExamples, patch_families, patch_ranges
from sparselight.interpret.renderers import ImageRenderer
from sparselight.interpret.tokens import SetSlice, SetTokens, TokenFrame
from sparselight.protocols import Box, Codes, Example, Image
from sparselight.records import Card

IMAGE = 1  # token id of a patch
GRID = (2, 3)
TEXT = "a b c d e f"


class FewPictures:
    """Two rows of three patches an image; keeps note of the files that were asked for."""

    def __init__(self, n_images=1, grid=GRID):
        self.n_images, self.grid, self.kept = n_images, grid, []

    def layout(self, example):
        return [Picture(self.grid, boxes=example.images[number].boxes) for number in range(self.n_images)]

    def keep(self, example, number):
        self.kept.append((example.id, number))
        return f"media/{example.id}-{number}.png"


class Rows:
    """A store of the numbers of its rows."""

    def read(self, rows, _site):
        return torch.as_tensor(np.asarray(rows), dtype=torch.float32)[:, None]


class Echo:
    """One latent, whose activation is the number of the row where that is a multiple of 3."""

    d_in, n_latents = 1, 1

    def encode(self, x):
        values = torch.where(x[:, 0] % 3 == 0, x[:, 0], 0.0)
        kept = values > 0
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), kept.cumsum(0)])
        return Codes(values[kept], torch.zeros(int(kept.sum()), dtype=torch.long), indptr, 1)


def tokens_of(n_examples=3, n_images=1, boxes=()):
    """Examples of 6 patches an image and 6 words, as a set and as a frame of all of it."""
    n_patches = n_images * GRID[0] * GRID[1]
    n = n_patches + 6
    images = tuple(Image(f"/x/{number}.png", str(number) * 64, boxes=boxes) for number in range(n_images))
    examples = {number: Example(f"e{number}", TEXT, f"g{number}", images=images) for number in range(n_examples)}
    start = np.tile([*[-1] * n_patches, *range(0, 12, 2)], n_examples)
    columns = {
        "rows": np.arange(n * n_examples), "example": np.repeat(np.arange(n_examples), n), "position": np.tile(np.arange(n), n_examples),
        "token_id": np.where(start < 0, IMAGE, 2 + start // 2), "char_start": start, "char_end": np.where(start < 0, -1, start + 1),
    }
    tokens = SetTokens("general", Rows(), examples=examples, **columns)
    frame = TokenFrame(sets=(SetSlice("general", "explain", 0, n * n_examples),), n_explain=n * n_examples, group=columns["example"],
                       examples=tuple(examples.values()), groups=tuple(f"g{number}" for number in range(n_examples)), **columns)
    return tokens, frame


def text_of(token_id):
    return "<image>" if token_id == IMAGE else "abcdef"[token_id - 2]


def windows_of(pictures, context_tokens=3, **settings):
    tokens, frame = tokens_of(n_images=pictures.n_images, **settings)
    return Windows([tokens], frame, text_of, context_tokens, with_marks=True, pictures=pictures), tokens, frame


def test_a_context_is_the_whole_picture_and_the_text_around_the_peak():
    pictures = FewPictures()
    windows, tokens, _ = windows_of(pictures)
    whole = WholeExamples("base", Echo(), [tokens], "site").of(0)
    row = 12 + 6 + 3  # of the second example: the word d
    context = windows.at_row(0, row, np.zeros(3), "top", whole=whole)
    assert context.tokens == ["<image>"] * 6 + ["c", "d", "e"]
    assert context.activations == [12.0, 0, 0, 15.0, 0, 0, 0, 21.0, 0]  # of patches far outside of the window too
    assert (context.peak, context.tokens[context.peak], context.start + context.peak) == (7, "d", 9)
    assert (context.grid, context.media, pictures.kept) == (GRID, "media/e1-0.png", [("e1", 0)])


def test_a_patch_shows_the_beginning_of_the_text():
    windows, tokens, _ = windows_of(FewPictures())
    context = windows.at_row(0, 3, np.zeros(3), "top", whole=WholeExamples("base", Echo(), [tokens], "site").of(0))
    assert context.tokens == ["<image>"] * 6 + ["a", "b", "c"] and (context.peak, context.start) == (3, 0)


def test_of_several_images_the_one_with_the_peak_is_shown():
    windows, tokens, _ = windows_of(FewPictures(n_images=2))
    whole = WholeExamples("base", Echo(), [tokens], "site").of(0)
    second = windows.at_row(0, 9, np.zeros(3), "top", whole=whole)
    assert second.media == "media/e0-1.png" and second.activations[:6] == [6.0, 0, 0, 9.0, 0, 0] and second.peak == 3
    assert windows.at_row(0, 12, np.zeros(3), "top", whole=whole).media == "media/e0-0.png"  # a word: the first image


def test_the_other_images_come_along_with_their_patches():
    pictures = FewPictures(n_images=3)
    windows, tokens, _ = windows_of(pictures)
    whole = WholeExamples("base", Echo(), [tokens], "site").of(0)
    context = windows.at_row(0, 9, np.zeros(3), "top", whole=whole)  # a patch of the second image: rows 6 to 11
    assert [(other.media, other.grid) for other in context.others] == [("media/e0-0.png", GRID), ("media/e0-2.png", GRID)]
    assert [other.activations for other in context.others] == [[0, 0, 0, 3.0, 0, 0], [12.0, 0, 0, 15.0, 0, 0]]
    silent = windows.at_row(0, 9, None, "random")
    assert [other.activations for other in silent.others] == [[], []] and silent.is_silent
    without, _, _ = windows_of(FewPictures(n_images=2, grid=None))
    beside = without.at_row(0, 8, np.array([1.0, 2.0, 3.0]), "top")
    assert [(other.media, other.grid, other.activations) for other in beside.others] == [("media/e0-1.png", None, [])]


def test_all_images_are_shown_on_one_scale_and_told_to_a_language_model(tmp_path):
    windows, tokens, _ = windows_of(FewPictures(n_images=2))
    context = windows.at_row(0, 9, np.zeros(3), "top", whole=WholeExamples("base", Echo(), [tokens], "site").of(0))
    page = ImageRenderer().html(context)
    assert page.count('<svg class="patches"') == 2 and page.index("e0-1.png") < page.index("e0-0.png")
    assert page.count('fill="none"') == 1 and page.count("rgba(255,140,0,0.16)") == 1  # one frame; 3 of the largest, 12
    assert ImageRenderer().prompt(context).splitlines()[:2] == [
        "image 1 (2 rows, 3 columns): fires on 2 of 6 patches, most of all middle left: row 2 column 1, row 1 column 1",
        "image 2 (2 rows, 3 columns): fires on 1 of 6 patches, most of all middle left: row 2 column 1"]
    card = Card(latent=0, source="base", fire_rate=0.1, domain_fire_rate=0.1, max_activation=9.0, explanation=None, contexts=[context], promotes=[],
                suppresses=[])
    assert load_catalogue(save_catalogue([card], tmp_path, "image"))[0].contexts == [context]


def test_where_patches_do_not_count_the_picture_stands_beside_the_text():
    pictures = FewPictures(grid=None)
    windows, _, _ = windows_of(pictures)
    context = windows.at_row(0, 8, np.array([1.0, 2.0, 3.0]), "top")
    assert context.grid is None and context.media == "media/e0-0.png" and context.activations == [1.0, 2.0, 3.0]


def test_activations_of_the_frame_serve_all_patches():
    windows, _, _ = windows_of(FewPictures())
    fired, values = np.array([0, 5, 11, 12]), np.array([1.0, 2.0, 3.0, 4.0])
    context = windows.at_token(11, fired, values, "quantile")
    assert context.activations == [1.0, 0, 0, 0, 0, 2.0, 0, 3.0] and context.tokens[6:] == ["e", "f"]


def test_silent_means_on_the_patches_too():
    windows, _, frame = windows_of(FewPictures())
    assert [bound.tolist() for bound in patch_ranges(frame)] == [[0, 12, 24], [6, 18, 30]]
    words = np.array([8, 20, 32])
    assert windows.is_silent(words, np.array([1, 30])).tolist() == [False, True, True]  # token 30 is a word far from 32


def test_patches_carry_boxes_and_places_and_nothing_of_the_text():
    box = Box(0.0, 0.0, 0.5, 0.5, "disease", "nodule")  # the middle of the upper left patch lies in it, and of the one beside it not
    _, frame = tokens_of(boxes=(box,))
    families = {family.name: family for family in patch_families(frame, FewPictures())}
    assert set(families) == {"disease", "patch", "picture"}
    assert np.flatnonzero(families["picture"].codes >= 0).tolist() == [index for index in range(36) if index % 12 < 6]
    assert np.flatnonzero(families["disease"].codes >= 0).tolist() == [0, 12, 24]
    names = [families["patch"].values[code] for code in families["patch"].codes[:6]]
    assert names == ["upper left", "upper center", "upper right", "middle left", "middle center", "middle right"]
    assert (families["patch"].codes[6:12] == -1).all()
    everything = find_families(frame, text_of, 1, FewPictures())
    for family in everything:
        if family.kind in ("text", "conjunction") and family.name != "position":
            assert (np.atleast_2d(family.codes)[:, :6] == -1).all(), family.name
    texts = make_hypotheses(everything, frame.group, frame.n_tokens, 3, 3).texts
    assert {"patches in the box nodule", "patches at the upper left of the picture", "any patch of the picture"} <= set(texts)


def test_a_text_corpus_has_no_patches():
    _, frame = tokens_of()
    assert not [family for family in find_families(frame, text_of) if family.kind in ("box", "patch", "picture")]


@pytest.mark.parametrize("n_kept", [1, 256])
def test_whole_examples_are_read_again_alike(n_kept, monkeypatch):
    monkeypatch.setattr("sparselight.interpret.patches.MOST_KEPT", n_kept)
    tokens, _ = tokens_of()
    read = WholeExamples("base", Echo(), [tokens], "site").of(0)
    for first in (0, 12, 0, 24):
        assert read(0, first, first + 12).tolist() == [row if row % 3 == 0 else 0.0 for row in range(first, first + 12)]
