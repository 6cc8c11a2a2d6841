"""Pictures in prompts: what is sent to a model that takes them, and what is not."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm import Asker, LlmClient, LlmConfig, LlmExplainer, Prompts, ScorersConfig
from sparselight.interpret.llm.chat import ChatRequest, Message, Sampling
from sparselight.interpret.llm.pictures import PromptPictures
from sparselight.interpret.renderers import renderer_for
from sparselight.interpret.scorers import make_scorers
from sparselight.records import Context
from sparselight.testing.llm_server import LlmServer

SCHEMA = {"type": "object", "properties": {"explanation": {"type": "string", "description": "x"}}}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "media").mkdir()
    PIL.Image.new("L", (28, 28), 100).save(tmp_path / "media" / "a.png")
    return tmp_path


def context_of(number, active=True, media="media/a.png"):
    activations = [0.0, 2.0, 0.0, 0.0, 1.0 if active else 0.0, 0.0] if active else [0.0] * 6
    tokens = [*["<image>"] * 4, "opacity", " seen"]
    return Context(example=f"e{number}", group=f"g{number}", tokens=tokens, activations=activations, peak=4, media=media, grid=(2, 2))


def decoded(url):
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def test_the_explainer_sees_a_heat_map_and_a_judge_does_not(run):
    pictures = PromptPictures(run, 4)
    marked, plain = (decoded(pictures.url(context_of(0), flag)) for flag in (True, False))
    assert marked.shape == plain.shape == (224, 224, 3)
    assert (plain == 100).all()
    upper_right = marked[:112, 112:]
    assert upper_right[..., 0].min() > 190 and upper_right[..., 2].max() < 50  # orange over gray
    assert (marked[112:] == 100).all()


def test_pictures_are_parts_of_the_last_message_of_the_user(run):
    messages = (Message("system", "s"), Message("user", "u"))
    contexts = [context_of(0), context_of(1, media=None), context_of(2), context_of(3)]
    found = PromptPictures(run, 2).attach(messages, contexts, marked=False)
    assert found[0] == messages[0] and len(found[1].images) == 2
    assert found[1].text == "u\n\nAttached, in this order: the picture of example 1, 3."
    parts = found[1].content()
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url"] and parts[1]["image_url"]["url"].startswith("data:image/png")
    assert PromptPictures(run, 2).attach(messages, [context_of(1, media=None)], marked=True) == messages


def test_a_request_without_pictures_is_known_by_the_same_name_as_ever():
    plain = ChatRequest((Message("user", "u"),), SCHEMA, Sampling(10))
    assert plain.identity()["messages"] == [["user", "u"]] and plain.body("m", "off")["messages"] == [{"role": "user", "content": "u"}]
    shown = ChatRequest((Message("user", "u", ("data:a",)),), SCHEMA, Sampling(10))
    assert shown.key("e", "m") != plain.key("e", "m")
    assert shown.most_tokens_in() > shown.expected_tokens_in() > plain.expected_tokens_in() + 500


def test_explanation_and_detection_over_a_server(run, tmp_path):
    item = LatentExamples(0, "base", explain=[context_of(number) for number in range(3)], score_positive=[context_of(number) for number in range(10, 14)],
                          score_negative=[context_of(number, active=False).model_copy(update={"tokens": ["<image>"] * 4 + ["all", " clear"]})
                                          for number in range(20, 24)])
    with LlmServer() as server:
        config = LlmConfig(endpoint=server.url, model="test-model", images=True, max_images=3)
        prompts, renderer, pictures = Prompts("image"), renderer_for("image"), PromptPictures(run, config.max_images)
        with LlmClient(config, tmp_path / "answers") as client:
            asker = Asker(client, prompts)
            explainer = LlmExplainer(config, prompts, renderer, client.sampling, pictures)
            explanation = explainer.explanation(asker.ask([explainer.request(item)])[0])
            assert explanation.text == "the word opacity" and explanation.made_with["images"] == "shown"
            detection = make_scorers(ScorersConfig(), prompts, renderer, client.sampling, pictures=pictures)[0]
            plan = detection.plan(item, explanation.text)
            score = plan.score(asker.ask(plan.requests))
        assert score.values["balanced_accuracy"].value == 1.0
        parts = [message["content"] for body in server.requests for message in body["messages"] if message["role"] == "user"]
        assert all(sum(part["type"] == "image_url" for part in content) == 3 for content in parts)
