"""Vision encoders as subjects: patches are tokens, in the order in which a grid is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from tests.subjects.image_text_models import folder_of, studies, subject

from sparselight.corpus.image_text.pixels import image_file
from sparselight.errors import SubjectError
from sparselight.store import HarvestConfig, harvest
from sparselight.subjects.image_text.regions import covered
from sparselight.subjects.image_text.vision import VisionEncoder
from sparselight.testing import check_subject

FAMILIES = ["llava", "paligemma", "qwen2_vl", "idefics3"]
TOWERS = {"llava": "vision_tower", "paligemma": "vision_tower", "qwen2_vl": "visual", "idefics3": "vision_model"}
LAYERS = {"qwen2_vl": "blocks"}


@pytest.mark.parametrize("family", FAMILIES)
def test_encoders_pass_the_contract_battery(family: str) -> None:
    found = subject(family, part="vision")
    assert found.wirings == ["sequential", "sequential"]
    assert found.sites()[0] == "vision.embed" and found.sites()[-1] == "vision.resid_post.1"
    check_subject(found, studies())


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_what_hooks_on_the_whole_model_see(family: str) -> None:
    whole, found = subject(family), subject(family, part="vision")
    example, seen = studies()[0], {}
    tower = whole.model.model.get_submodule(TOWERS[family])
    layer = tower.get_submodule(LAYERS.get(family, "encoder.layers"))[0]
    handle = layer.register_forward_hook(lambda _m, _a, output: seen.update(x=output[0] if isinstance(output, tuple) else output))
    whole.predict(whole.prepare([example]))
    handle.remove()
    x = found.capture(found.prepare([example]), ["vision.resid_post.0"])["vision.resid_post.0"]
    (rows, columns), = found.patch_grids([example])[0]
    raw = seen["x"].reshape(-1, seen["x"].shape[-1])[found.family.n_leading:]
    if family == "qwen2_vl":  # blocks of 2 x 2 patches stand together
        raw = raw.view(rows // 2, columns // 2, 2, 2, -1).transpose(1, 2).reshape(rows * columns, -1)
    torch.testing.assert_close(x, raw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_stand_where_the_picture_has_them(family: str, tmp_path) -> None:
    """A bright spot changes the embedding of the patch at its place most; where pictures are scaled, a little of its neighbors."""
    found = subject(family, part="vision")
    examples = []
    for name, value in (("dark", 20), ("spot", 250)):
        pixels = np.full((32, 32, 3), 20, np.uint8)
        pixels[10:14, 26:30] = value
        Pictures.fromarray(pixels).save(tmp_path / f"{name}.png")
        examples.append(replace(studies()[0], id=name, images=(image_file(tmp_path / f"{name}.png"),)))
    (rows, columns), = found.patch_grids(examples)[0]
    embedded = found.capture(found.prepare(examples), ["vision.embed"])["vision.embed"].view(2, rows, columns, -1)
    changed = (embedded[0] - embedded[1]).norm(dim=-1)
    assert divmod(int(changed.argmax()), columns) == (rows * 12 // 32, columns * 28 // 32)


def test_class_tokens_do_not_count() -> None:
    found = subject("llava", part="vision")
    batch = found.prepare(studies())
    assert batch.counts.shape == (5, 17) and not batch.counts[:, 0].any()
    assert found.ref().token_policy.images.part == "vision"


def test_an_encoder_has_no_loss_and_nothing_of_the_language_model() -> None:
    found = subject("llava", part="vision")
    with pytest.raises(SubjectError, match="loss"):
        found.loss(found.prepare(studies()))
    with pytest.raises(SubjectError, match=r"part = 'language'"):
        found.d_site("resid_post.1")
    with pytest.raises(SubjectError, match=r"layers 0 to 1.*vision\.resid_post\.1"):
        found.d_site("vision.resid_post.7")
    for site in ("vision.resid_post.1", "model.vision_tower.encoder.layers.0:output"):
        with pytest.raises(SubjectError, match=r"part = 'vision'"):
            subject("llava").d_site(site)


def test_encoders_with_an_order_of_their_own_are_refused() -> None:
    with pytest.raises(SubjectError, match="windows"):
        subject("qwen2_5_vl", part="vision")


def test_patches_are_harvested(tmp_path) -> None:
    found = subject("qwen2_vl", part="vision")
    store = harvest(found, studies(), ["vision.resid_post.1"], tmp_path / "store", HarvestConfig(site="vision.resid_post.1", dtype="float32"), "studies")
    batch = found.prepare(studies())
    assert store.tokens().column("example").to_pylist() == batch.example.tolist()
    x = found.capture(batch, ["vision.resid_post.1"])["vision.resid_post.1"]
    torch.testing.assert_close(store.read(np.arange(store.n_tokens), "vision.resid_post.1"), x, rtol=1e-4, atol=1e-4)


def test_dinov2_is_read_with_its_layer_scales(tmp_path) -> None:
    """The construction of RAD-DINO, which MAIRA-2 looks through."""
    from transformers import AutoProcessor, Dinov2Config, LlavaConfig, LlavaForConditionalGeneration

    old = LlavaConfig.from_pretrained(folder_of("llava"))
    vision = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, layerscale_value=0.7)
    config = LlavaConfig(vision_config=vision, text_config=old.text_config, image_token_index=old.image_token_id, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    processor = AutoProcessor.from_pretrained(folder_of("llava"))
    found = VisionEncoder(model, processor, "dinov2")
    assert found.wirings == ["sequential", "sequential"] and found.family.n_leading == 1
    check_subject(found, studies())


def test_a_padded_square_reaches_beyond_the_picture() -> None:
    crop = {"do_center_crop": True, "do_resize": True, "size": {"shortest_edge": 20}, "crop_size": {"width": 20, "height": 20}}
    assert covered({**crop, "do_pad": True}, 40, 20) == pytest.approx((0, -0.5, 1, 1.5))
    assert covered(crop, 40, 20) == pytest.approx((0.25, 0, 0.75, 1))
    assert covered({"do_resize": True, "size": {"width": 20, "height": 20}}, 40, 20) == (0, 0, 1, 1)
