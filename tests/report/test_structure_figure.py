"""A chain in space as SVG: parsable, escaped, turned into its own axes, colored by activation."""

from xml.etree import ElementTree

import numpy as np
import pytest

from sparselight.report.structure_figure import COLD, HOT, color, principal, structure_figure

PLACES = np.stack([3.8 * np.arange(12), np.sin(np.arange(12)), 0.1 * np.cos(np.arange(12))], axis=1)


def test_the_picture_is_whole_and_what_is_active_is_named() -> None:
    activations = [0.0] * 4 + [2.0, 1.0] + [0.0] * 6
    svg = structure_figure("base/3: <b>helix</b>", "chain A", "MKTAYLAKQRWG", PLACES, activations)
    root = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("line") == 2 * 11
    assert names.count("circle") == 2 * 2
    assert "Y5: 2" in svg
    assert "L6: 1" in svg
    assert "<b>" not in svg
    assert "activation 0 to 2" in svg


def test_a_silent_latent_and_missing_residues() -> None:
    places = PLACES.copy()
    places[6:, 0] += 10
    svg = structure_figure("t", "s", "MKTAYLAKQRWG", places, [0.0] * 12)
    assert "the latent fires on no residue" in svg
    assert svg.count("stroke-dasharray") == 2, "one gap in each view"


def test_axes_are_those_of_spread_and_keep_distances() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = principal(PLACES @ rotation + 7)
    assert list(np.argsort(-turned.var(axis=0))) == [0, 1, 2]
    distances = [np.linalg.norm(places[:, None] - places[None], axis=2) for places in (PLACES, turned)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert color(0) == "#" + "".join(f"{part:02x}" for part in COLD)
    assert color(1) == "#" + "".join(f"{part:02x}" for part in HOT)
    assert color(0.5) != pytest.approx(color(1))
