"""What stands round an example's text: the images, and the words with which a model is asked.

Owns: the prompt in one form for any number of images, from settings, the processor's chat template, or the family's usual form. Refuses: templates that write
the date of the day, or something between images that cannot be repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparselight.errors import SubjectError
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.families import Llava
from sparselight.subjects.tokens import TEMPLATE_DAY

IMAGES, IMAGE, NAME = "{images}", "{image}", "{name}"
OWN_PROMPT = "write the prompt in subject.image_text.prompt_prefix, with {images} where the images go"


@dataclass(frozen=True, slots=True)
class Prompt:
    """`prefix` holds {images} once, `image_form` holds {image} once."""

    prefix: str
    suffix: str
    image_form: str

    def before(self, names: Sequence[str], shown: str) -> str:
        """What stands before the text of an example with images of these names; `shown` stands for each of them."""
        forms = "".join(self.image_form.replace(NAME, name).replace(IMAGE, shown) for name in names)
        return self.prefix.replace(IMAGES, forms)


def make_prompt(processor: Any, family: Llava, config: ImageTextConfig, image_token: str, name: str) -> Prompt:
    """The prompt of a model.

    Raises:
        SubjectError: when its chat template cannot be used.
    """
    prefix, form = config.prompt_prefix, config.image_form
    if prefix is None and (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        prefix, own_form = _from_template(processor, config.instruction or family.instruction, image_token, name)
        form = form or own_form
    if prefix is None:
        usual = family.prefix
        if config.instruction is not None and "{instruction}" not in usual:
            usual += "{instruction}\n"
        prefix = usual.replace("{bos}", processor.tokenizer.bos_token or "").replace("{instruction}", config.instruction or family.instruction)
    return Prompt(prefix, config.prompt_suffix, form or family.image_form)


def _from_template(processor: Any, instruction: str, image_token: str, name: str) -> tuple[str, str]:
    """Prefix and image form of the processor's chat template: one user message, images before the words, up to the answer."""
    asked = f"ask {name} in its chat template"
    template = str(getattr(processor, "chat_template", None) or processor.tokenizer.chat_template)
    if "strftime_now" in template and "date_string" not in template:
        raise SubjectError(asked=asked, why="it writes the date of the day, so that rows would differ from day to day", instead=OWN_PROMPT)
    one, two = (_rendered(processor, n, instruction, asked) for n in (1, 2))
    form = _repeated(one, two, image_token)
    if form is None:
        raise SubjectError(asked=asked, why="what it writes for two images is not twice what it writes for one", instead=OWN_PROMPT)
    return one.replace(form, IMAGES, 1), form.replace(image_token, IMAGE)


def _rendered(processor: Any, n_images: int, instruction: str, asked: str) -> str:
    content = [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": instruction}]
    try:
        return str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DAY))
    except Exception as err:  # templates are programs of their authors
        raise SubjectError(asked=asked, why=f"the template refuses a user message with images ({str(err).splitlines()[0]})", instead=OWN_PROMPT) from None


def _repeated(one: str, two: str, image_token: str) -> str | None:
    """The piece of `one` that holds the image and stands twice in `two`, all else alike."""
    size, at = len(two) - len(one), one.find(image_token)
    if at < 0 or one.count(image_token) != 1 or size < len(image_token):
        return None
    for start in range(at, at + len(image_token) - size - 1, -1):
        form = one[start:start + size]
        if start >= 0 and image_token in form and two == one[:start] + 2 * form + one[start + size:]:
            return form
    return None
