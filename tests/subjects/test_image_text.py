"""Image-text subjects of each family: rows are those of the model's own processor, sites are where they are said to be, policies count what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from tests.subjects.image_text_models import CONTEXT_TOKENS, folder_of, studies, subject

from sparselight.corpus.image_text.pixels import image_file
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.subjects.batching import narrow_parts
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.testing import IMAGE_TEXT_MODELS, check_subject

FAMILIES = list(IMAGE_TEXT_MODELS)
WITH_PROCESSOR = ["llava", "paligemma", "idefics3"]  # Qwen's whole processor needs torchvision
GRIDS = {"llava": (4, 4), "paligemma": (4, 4), "idefics3": (2, 2)}
LAYERS = {"idefics3": "model.text_model.layers"}


@pytest.mark.parametrize(("family", "image_tokens"), [
    *((family, "all") for family in FAMILIES), ("llava", "none"), ("paligemma", "last"), ("qwen2_vl", "last")])
def test_families_pass_the_contract_battery(family: str, image_tokens: str) -> None:
    found = subject(family, image_tokens=image_tokens)
    assert found.wirings == ["sequential", "sequential"]
    assert found.sites()[0] == "embed" and found.sites()[-1] == "resid_post.1"
    check_subject(found, studies())


def own_inputs(family: str, example, text: str):
    """What the model's own processor makes of an example whose prompt and text are `text`."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder_of(family))
    pictures = [Pictures.open(image.path).convert("RGB") for image in example.images]
    if family == "paligemma":
        prompt, _, rest = text.partition("\n")
        return processor(images=[pictures], text=[prompt], suffix=[rest], return_tensors="pt")
    given = {"images": [pictures], "do_image_splitting": False} if family == "idefics3" else {"images": pictures}
    return processor(text=[text], return_tensors="pt", **given)


@pytest.mark.parametrize("family", WITH_PROCESSOR)
def test_rows_and_predictions_are_those_of_the_models_own_processor(family: str) -> None:
    found = subject(family)
    for example in studies():
        batch = found.prepare([example])
        images = "<image>" * len(example.images)
        text = f"{images}caption en\n{example.text}" if family == "paligemma" else f"{images}\n{example.text}"
        own = own_inputs(family, example, text)
        ids = own["input_ids"][0].tolist()
        begin = [] if family == "paligemma" else [0]  # our BOS, which the tiny tokenizers do not put in front themselves
        ids = ids[:-1] if family == "paligemma" else ids  # PaliGemma's processor ends the suffix
        assert batch.input_ids[0].tolist() == [*begin, *ids]
        own.pop("labels", None)
        own["input_ids"] = batch.input_ids
        own["attention_mask"] = torch.ones_like(batch.input_ids)
        if "token_type_ids" in own:
            own["token_type_ids"] = own["token_type_ids"][:, :-1]
        with torch.no_grad():
            logits = found.model(**own).logits
        assert torch.equal(logits[batch.counts], found.predict(batch))


def test_qwen_counts_patches_by_the_size_of_the_image() -> None:
    found = subject("qwen2_vl")
    assert found.patch_grids(studies()) == [[(2, 4)], [(3, 2)], [(4, 4), (4, 4)], [(5, 2)]]
    assert found.n_tokens(studies()) == torch.bincount(found.prepare(studies()).example).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_what_hooks_on_the_modules_see(family: str) -> None:
    found, seen = subject(family), {}
    batch = found.prepare(studies())
    layers = found.model.get_submodule(LAYERS.get(family, "model.language_model.layers"))
    handles = [layer.register_forward_hook(lambda _m, _a, output, number=number: seen.update({number: output[0] if isinstance(output, tuple) else output}))
               for number, layer in enumerate(layers)]
    found.predict(batch)
    for handle in handles:
        handle.remove()
    x = found.capture(batch, ["resid_post.0", "resid_post.1", "resid_pre.1"])
    for number in range(2):
        assert torch.equal(x[f"resid_post.{number}"], seen[number][batch.counts])
    assert torch.equal(x["resid_pre.1"], x["resid_post.0"])


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_see_the_pixels(family: str) -> None:
    found, example = subject(family), studies()[0]
    picture = Path(example.images[0].path)
    darker = picture.with_name(f"{picture.stem}-darker.png")
    Pictures.fromarray(np.asarray(Pictures.open(picture)) // 3).save(darker)
    other = replace(example, images=(image_file(darker),))
    one, two = (found.capture(found.prepare([shown]), ["resid_pre.0"])["resid_pre.0"] for shown in (example, other))
    of_image = found.prepare([example]).char_start < 0
    assert not torch.allclose(one[of_image], two[of_image])
    assert torch.equal(one[~of_image], two[~of_image])


def test_policies_count_none_one_or_all_of_an_image() -> None:
    batches = {tokens: subject("llava", image_tokens=tokens).prepare(studies()) for tokens in ("none", "last", "all")}
    n_images = sum(len(example.images) for example in studies())
    assert [int((batch.char_start < 0).sum()) for batch in batches.values()] == [0, n_images, 16 * n_images]
    text = {tokens: batch.token_id[batch.char_start >= 0].tolist() for tokens, batch in batches.items()}
    assert text["none"] == text["last"] == text["all"]
    fingerprints = {subject("llava", image_tokens=tokens).fingerprint for tokens in batches}
    assert len(fingerprints) == 3
    # The one token of `last` is the last one of `all`.
    last, every = (subject("llava", image_tokens=tokens).capture(batches[tokens], ["resid_post.1"])["resid_post.1"] for tokens in ("last", "all"))
    assert torch.equal(last[0], every[15])


@pytest.mark.parametrize("family", FAMILIES)
def test_offsets_give_the_text_back(family: str) -> None:
    found = subject(family, image_tokens="last")
    batch = found.prepare(studies())
    for number, example in enumerate(studies()):
        own = (batch.example == number) & (batch.char_start >= 0)
        pieces = [example.text[start:end] for start, end in zip(batch.char_start[own], batch.char_end[own], strict=True)]
        assert "".join(pieces) == example.text
        assert [found.token_text(token) for token in batch.token_id[own].tolist()] == pieces


def test_the_prompt_never_counts() -> None:
    settings = ImageTextConfig(prompt_prefix="USER: {images} What is it? key cipher ASSISTANT: ", prompt_suffix=" def key", image_form="{name}: {image}")
    found = load_subject(SubjectConfig(source=str(folder_of("llava")), context_tokens=CONTEXT_TOKENS, image_text=settings))
    batch = found.prepare(studies())
    plain = subject("llava").prepare(studies())
    assert found.n_tokens(studies()) == torch.bincount(plain.example).tolist()
    row = batch.input_ids[2][batch.attention_mask[2]]
    words = found._tokens.vocabulary.backend.decode(row.tolist(), skip_special_tokens=False)
    assert words.startswith("<|bos|>USER: frontal: <image><image>") and "lateral: <image>" in words
    assert words.endswith(" def key")
    assert int(batch.counts[0].nonzero()[-1]) < int(batch.attention_mask[0].sum()) - 1


def test_the_chat_template_of_a_processor_is_the_prompt(tmp_path) -> None:
    import shutil

    shutil.copytree(folder_of("llava"), tmp_path / "model")
    template = ("{% for message in messages %}{{ message.role }}: {% for part in message.content %}{% if part.type == 'image' %}[<image>]{% else %}"
                "{{ part.text }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant: {% endif %}")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    found = load_subject(SubjectConfig(source=str(tmp_path / "model"), context_tokens=CONTEXT_TOKENS, image_text=ImageTextConfig(instruction="Say it.")))
    images = found.ref().token_policy.images
    assert (images.prompt_prefix, images.image_form) == ("user: {images}Say it. assistant: ", "[{image}]")
    check_subject(found, studies())


def test_long_texts_are_cut_and_images_stay() -> None:
    found = load_subject(SubjectConfig(source=str(folder_of("llava")), context_tokens=45))
    batch = found.prepare(studies())
    assert batch.input_ids.shape[1] == 45
    assert found.n_tokens(studies()) == torch.bincount(batch.example).tolist()
    assert found.ref().token_policy.long_examples == "cut"
    assert int((batch.char_start[batch.example == 2] < 0).sum()) == 32


def test_images_beyond_the_limit_are_left_out() -> None:
    found = subject("llava", max_images=1)
    assert found.patch_grids(studies()) == [[(4, 4)]] * 4
    assert int((found.prepare(studies()).char_start < 0).sum()) == 4 * 16


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_stands_beside_rows_with_images(family: str) -> None:
    found = subject(family, text_alone=True)
    mixed = [studies()[0], replace(studies()[1], images=()), studies()[2]]
    check_subject(found, mixed)
    check_subject(found, [replace(example, images=()) for example in mixed])


def test_pixels_follow_their_rows_into_narrower_batches() -> None:
    found = subject("llava")
    long = [replace(studies()[2], id=f"long {number}") for number in range(2)]
    short = [replace(studies()[0], id=f"short {number}", text="key") for number in range(24)]
    batch = found.prepare([*long, *short])
    parts = narrow_parts(batch, "right")
    assert len(parts) > 1 and all(len(part.inputs["pixel_values"]) == len(part.input_ids) for _, part in parts)
    alone = torch.cat([found.capture(found.prepare([example]), ["resid_post.1"])["resid_post.1"] for example in [*long, *short]])
    torch.testing.assert_close(found.capture(batch, ["resid_post.1"])["resid_post.1"], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_left_changes_nothing(family: str) -> None:
    found = load_subject(SubjectConfig(source=str(folder_of(family)), context_tokens=CONTEXT_TOKENS, padding_side="left"))
    right = subject(family)
    one, two = (shown.capture(shown.prepare(studies()), ["resid_post.1"])["resid_post.1"] for shown in (found, right))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_the_names_and_hands_out_float32(family: str, dtype: str) -> None:
    found = load_subject(SubjectConfig(source=str(folder_of(family)), context_tokens=CONTEXT_TOKENS, dtype=dtype))
    assert found.sites() == subject(family).sites()
    x = found.capture(found.prepare(studies()), ["resid_post.0"])["resid_post.0"]
    whole = subject(family).capture(found.prepare(studies()), ["resid_post.0"])["resid_post.0"]
    assert x.dtype == torch.float32 and float((x - whole).norm() / whole.norm()) < 0.05


def test_the_fingerprint_tells_image_processors_apart(tmp_path) -> None:
    import json
    import shutil

    shutil.copytree(folder_of("llava"), tmp_path / "model")
    path = tmp_path / "model" / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(content))
    other = load_subject(SubjectConfig(source=str(tmp_path / "model"), context_tokens=CONTEXT_TOKENS))
    assert other.fingerprint != subject("llava").fingerprint


def test_regions_follow_the_image_processor() -> None:
    wide, high = subject("llava").patch_regions(studies())[0][0], subject("llava").patch_regions(studies())[3][0]
    assert wide == pytest.approx((1 / 6, 0, 5 / 6, 1)) and high == pytest.approx((0, 0.5 - 41 / 180, 1, 0.5 + 41 / 180))
    for family in ("paligemma", "qwen2_vl", "idefics3"):
        assert subject(family).patch_regions(studies())[0] == [(0.0, 0.0, 1.0, 1.0)]
