"""Intrinsic dimension: a d-dimensional cube in a wider space has dimension d by both estimates; layers, plateau, record, picture, command."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from sparselight.cli import main
from sparselight.errors import ConfigError
from sparselight.evaluate.intrinsic_dimension import (
    dimension_mle,
    dimension_slope,
    example_means,
    layer_points,
    neighbor_ratios,
    plateau,
)
from sparselight.pipeline.layers import measure_layers
from sparselight.records import LayersRecord
from sparselight.testing import tiny_family, tiny_proteins


def cube(n: int, d: int, width: int, seed: int = 0) -> torch.Tensor:
    """Uniform points of a d-dimensional cube, turned into a space of `width` dimensions."""
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return torch.rand(n, d, generator=generator, dtype=torch.float64) @ turned[:d]


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_cube_has_its_dimension(d: int) -> None:
    ratios = neighbor_ratios(cube(1500, d, 12))
    value, low, high = dimension_mle(ratios.mu)
    assert low < value < high
    assert value == pytest.approx(d, rel=0.1)
    assert dimension_slope(ratios.mu) == pytest.approx(d, rel=0.12)
    assert ratios.n_duplicates == 0


def test_formulas_on_ratios_of_known_law() -> None:
    """With mu of F(mu) = 1 - mu^-d exactly, both estimates give d."""
    d, n = 7.0, 20_000
    mu = (1 - (np.arange(n) + 0.5) / n) ** (-1 / d)
    assert dimension_mle(mu)[0] == pytest.approx(d, rel=1e-3)
    assert dimension_slope(mu) == pytest.approx(d, rel=1e-3)


def test_duplicates_and_too_few_points() -> None:
    x = cube(40, 2, 3)
    assert neighbor_ratios(torch.cat([x, x[:7]])).n_duplicates == 7
    with pytest.raises(ConfigError, match="1 of them are distinct"):
        neighbor_ratios(torch.ones(50, 3))


def test_scale_and_order_change_nothing() -> None:
    x = cube(60, 3, 4)
    first, second = (dimension_mle(neighbor_ratios(points).mu)[0] for points in (x, 1e-4 * x.flip(0)))
    assert first == pytest.approx(second, rel=1e-9)


def test_points_are_the_means_of_examples() -> None:
    subject, corpus = tiny_family("esm"), tiny_proteins(30)
    found = layer_points(subject, corpus.examples, ["resid_post.0", "resid_post.1"], "examples", 30, 0)
    alone = subject.capture(subject.prepare(corpus.examples[:1]), ["resid_post.1"])["resid_post.1"].double().mean(0)
    assert min((row - alone).norm().item() for row in found["resid_post.1"]) < 1e-5
    assert layer_points(subject, corpus.examples, ["resid_post.0"], "tokens", 200, 0)["resid_post.0"].shape[0] == pytest.approx(200, abs=60)
    assert torch.equal(example_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([4, 4, 9])), torch.tensor([[2.0], [5.0]], dtype=torch.float64))


def test_the_plateau_is_the_longest_run_of_like_values() -> None:
    assert list(plateau([10, 20, 12, 11.5, 11.2, 6])) == [2, 3, 4]
    assert list(plateau([8.9, 8.8, 9.0, 8.2])) == [0, 1, 2, 3]
    assert list(plateau([5.0])) == [0]
    assert list(plateau([1, 2, 3])) == [0]


def test_record_picture_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject, corpus = tiny_family("esm"), tiny_proteins(40)
    record = measure_layers(subject, corpus, n_points=40, out=tmp_path)
    assert LayersRecord.load(tmp_path / "layers.json") == record
    assert record.suggestion in record.plateau
    svg = ElementTree.fromstring((tmp_path / "layers.svg").read_text())
    assert svg.tag.endswith("svg")
    (tmp_path / "a.fasta").write_text("".join(f">p{number}\n{example.text}\n" for number, example in enumerate(corpus)))
    subject.model.save_pretrained(tmp_path / "esm")
    from sparselight.testing import tiny_esm_tokenizer

    tiny_esm_tokenizer().save_pretrained(tmp_path / "esm")
    made = ["--set", "subject.context_tokens=62", "--n-points", "40", "--out", str(tmp_path / "made")]
    arguments = ["layers", str(tmp_path / "esm"), str(tmp_path / "a.fasta"), *made]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert ended.value.code == 0
    assert [layer["site"] for layer in json.loads(capsys.readouterr().out)["layers"]] == ["resid_post.0", "resid_post.1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--points", "words"])
    assert ended.value.code == 2
