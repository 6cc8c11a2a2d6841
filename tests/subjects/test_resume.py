"""Resumed passes give what whole ones do, bit for bit, for every family that predicts and at every kind of site; and say where they cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparselight.subjects import CausalLM, HuggingFaceSubject
from sparselight.subjects.resume import Scoring, SplicedPasses, can_resume, layers_before, skipping
from sparselight.testing import tiny_corpus, tiny_subject
from sparselight.testing.families import FAMILY_MODELS, tiny_family
from sparselight.testing.tiny import tiny_proteins

PREDICTING = [name for name, (kind, *_) in FAMILY_MODELS.items() if kind != "encoder"]
EVERYTHING = slice(None)


def halved(x: Tensor) -> Tensor:
    return x / 2


def first_scoring(subject: Any, n: int = 6) -> Scoring:
    corpus = tiny_proteins(n) if subject.name == "esm" else tiny_corpus(n)
    return next(subject.scorings(subject.prepare(corpus.examples)))


def whole(subject: Any, scoring: Scoring, edits: dict[str, Any] | None) -> Tensor:
    return subject._logits(scoring.batch, edits, scoring.where, subject._head).float()


@pytest.mark.parametrize("family", PREDICTING)
def test_every_family_resumes_exactly_at_its_sites(family: str) -> None:
    subject = tiny_family(family)
    scoring = first_scoring(subject)
    sites = [site for site in subject.sites() if site.rpartition(".")[2] in ("embed", "1")]
    assert sites
    for site in sites:
        assert can_resume(subject, scoring, site), site
        passes = SplicedPasses(subject, scoring, site, resume=True)
        for edit in (None, halved):
            expected = whole(subject, scoring, None if edit is None else {site: edit})
            assert torch.equal(passes.logits(passes.run(edit), EVERYTHING), expected), site


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


def test_blocks_of_positions_make_up_the_whole(subject: CausalLM) -> None:
    scoring = first_scoring(subject)
    passes = SplicedPasses(subject, scoring, "resid_post.1", resume=True)
    end = passes.run(halved)
    blocks = torch.cat([passes.logits(end, slice(start, start + 7)) for start in range(0, len(scoring.where), 7)])
    torch.testing.assert_close(blocks, passes.logits(end, EVERYTHING), rtol=1e-5, atol=1e-5)


def test_layers_before_the_site_run_once(subject: CausalLM) -> None:
    calls = [0, 0, 0]
    handles = [layer.mlp.register_forward_hook(lambda _m, _a, _o, number=number: calls.__setitem__(number, calls[number] + 1))
               for number, layer in enumerate(subject.layers)]
    scoring = first_scoring(subject)
    passes = SplicedPasses(subject, scoring, "resid_post.1", resume=True)
    ends = [passes.run(edit) for edit in (None, halved, torch.zeros_like)]
    for end in ends:
        passes.logits(end, EVERYTHING)
    for handle in handles:
        handle.remove()
    assert calls == [1, 1, 3]


def test_edits_leave_massive_activations_alone(subject: CausalLM) -> None:
    site = "resid_post.1"
    scoring = first_scoring(subject)
    limit = float(subject.capture(scoring.batch, [site])[site].norm(dim=1).median())
    limited = subject.with_max_norms({site: limit})
    seen: list[int] = []
    passes = SplicedPasses(limited, scoring, site, resume=True)
    end = passes.run(lambda x: (seen.append(len(x)), torch.zeros_like(x))[1])
    assert 0 < seen[0] < scoring.batch.n_tokens
    assert torch.equal(passes.logits(end, EVERYTHING), whole(limited, scoring, {site: torch.zeros_like}))


@pytest.mark.parametrize("site", ["model.norm:output", "lm_head:input"])
def test_a_site_after_the_layers_is_not_resumed_but_gives_the_same(subject: CausalLM, site: str) -> None:
    scoring = first_scoring(subject)
    assert not can_resume(subject, scoring, site)
    passes = SplicedPasses(subject, scoring, site, resume=False)
    assert torch.equal(passes.logits(passes.run(halved), EVERYTHING), whole(subject, scoring, {site: halved}))


def test_layers_that_hand_something_past_the_stream_are_found_out(subject: CausalLM) -> None:
    scoring, noted = first_scoring(subject), []
    handles = [subject.layers[0].mlp.register_forward_hook(lambda _m, _a, output: noted.append(output)),
               subject.layers[2].mlp.register_forward_hook(lambda _m, _a, output: output + noted.pop())]
    try:
        assert not can_resume(subject, scoring, "resid_post.1")
        assert can_resume(subject, scoring, "resid_pre.0")  # then all layers run
    finally:
        for handle in handles:
            handle.remove()


def test_skipped_layers_are_as_before_afterwards(subject: CausalLM) -> None:
    layers: list[Any] = subject.layers
    layers[0].forward, own = (lambda *_args, **_kwargs: None), layers[0].forward
    kept = layers[0].forward
    with pytest.raises(RuntimeError, match="in the block"), skipping(layers, torch.zeros(1)):
        raise RuntimeError("in the block")
    assert layers[0].forward is kept
    del layers[0].forward
    assert layers[0].forward == own
    assert all("forward" not in vars(layer) for layer in layers)


def test_which_layers_come_before_a_site(subject: HuggingFaceSubject) -> None:
    before = {site: layers_before(subject.layers, subject._site(site)) for site in (
        "embed", "resid_pre.0", "resid_post.0", "resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.1", "model.layers.2.mlp:input")}
    assert before == {"embed": 0, "resid_pre.0": 0, "resid_post.0": 1, "resid_pre.1": 1, "attn_out.1": 1, "resid_mid.1": 1, "mlp_out.1": 1,
                      "resid_post.1": 2, "model.layers.2.mlp:input": 2}
