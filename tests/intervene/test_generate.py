import pytest

from sparselight.errors import ConfigError, SubjectError
from sparselight.intervene import edit_functions, generate_with
from sparselight.protocols import Example, Span
from sparselight.records import Edit, EditSet, Where
from sparselight.testing import tiny_subject
from sparselight.testing.families import tiny_family

SITE, PROMPTS = "resid_post.1", ["def make_key(", "for items in value:"]


def make_edit(latent: int = 3, amount: float = 8.0, **fields: object) -> Edit:
    return Edit(site=SITE, latents=[latent], operation="add", amount=amount, **fields)


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def test_every_prompt_with_every_edit_and_seed(subject, make_sae) -> None:
    sae = make_sae()
    edits = [None, make_edit(), EditSet(edits=[make_edit(where=Where(tokens="generated")), make_edit(5, -4.0)])]
    found = generate_with(subject, PROMPTS, edits, sae, 8, 1.0, seeds=(0, 1))
    assert [(one.prompt, one.edit, one.seed) for one in found] == [(prompt, edit, seed) for prompt in (0, 1) for edit in (0, 1, 2) for seed in (0, 1)]
    for one in found:
        own = edits[one.edit]
        assert one.text == subject.generate(PROMPTS[one.prompt], 8, None if own is None else edit_functions(own, sae), 1.0, one.seed)
    assert generate_with(subject, [], edits, sae, 8) == []


def test_many_edits_of_generated_tokens_share_the_prompt_and_one_product(subject, make_sae) -> None:
    sae, rows = make_sae(), []
    edits = [make_edit(latent, 6.0, where=Where(tokens="generated")) for latent in range(40)]
    handle = subject.model.register_forward_pre_hook(lambda _m, _a, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    try:
        found = generate_with(subject, PROMPTS[:1], edits, sae, 6)
    finally:
        handle.remove()
    assert rows[0] == 1
    assert len(rows) == 6
    for one in found:
        assert one.text == subject.generate(PROMPTS[0], 6, edit_functions(edits[one.edit], sae))
    assert len({one.text for one in found}) > 5


def test_annotations_of_a_prompt(subject, make_sae) -> None:
    text, sae = "def make_key(items):", make_sae()
    example = Example("a", text, "g", {}, (Span(4, 12, "kind", "name"),))
    found = generate_with(subject, [example], [make_edit(where=Where(annotation="kind=name")), make_edit(where=Where(chars=[(4, 12)]))], sae, 10)
    assert found[0].text == found[1].text


@pytest.mark.parametrize("where", [
    Where(annotation="kind"), Where(chars=[(500, 510)]), Where(tokens="prompt", positions=[90]), Where(positions=[-90]), Where(tokens="prompt", token_ids=[0]),
])
def test_an_edit_that_acts_nowhere_is_refused(subject, make_sae, where: Where) -> None:
    with pytest.raises(ConfigError, match="that is no token of 2 examples, so it would change nothing"):
        generate_with(subject, PROMPTS, [make_edit(where=where)], make_sae(), 4)


def test_subjects_that_do_not_write_are_refused(make_sae) -> None:
    for family, words in (("bert", r"fill in masks with unmask"), ("bert_encoder", "choose a causal language model")):
        with pytest.raises(SubjectError, match=words):
            generate_with(tiny_family(family), PROMPTS, [None], make_sae(16), 4)
