"""Words of the subject's vocabulary in spelling prompts, read at the word: the setting in which absorption was found and is compared.

Chanin et al. 2024 (arXiv 2409.14507) and SAEBench: tokens that are nothing but letters, a space before them allowed; a prompt is a few
solved examples and the word itself, `WORD has the first letter:`, and the activation is that of the word's token. Whether the subject
spells well does not matter there, because the word comes before its letter. Spellings of one word (capitals, space) stay on one side.
"""

import re

import numpy as np
import torch

from sparselight.errors import SubjectError
from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.case import Case, Tokens
from sparselight.protocols import Example, Span, Subject
from sparselight.subjects import batches_by_length

WORD = re.compile(r" ?[A-Za-z]+")
TEMPLATE = "{word} has the first letter:"
ANSWER = " {letter}"
SEPARATOR = "\n"
HELD_OUT_FRAC = 0.2
KIND = "first_letter"
SMALL_PARAMETERS = 1_000_000_000


def word_tokens(case: Case, config: AbsorptionConfig) -> tuple[dict[str, Tokens] | None, str]:
    """The word tokens of both sides, each with its letter as a span.

    Returns:
        Tokens by side, None where this subject has not the words for it, and why not.
    """
    if case.subject is None:
        return None, "it runs the subject, and none is given (--subject)"
    if case.subject.ref().kind != "causal_lm":
        return None, f"the subject is a {case.subject.ref().kind}, and spelling prompts are for causal language models"
    words = vocabulary_words(case.subject)
    lacking = too_few_words([word for _, word in words], config)
    if lacking:
        return None, lacking
    rng = np.random.default_rng(config.seed)
    examples = _prompts(words, config, rng)
    body, longest = case.subject.ref().token_policy.body_tokens, max(case.subject.n_tokens(examples["fit"] + examples["held_out"]))
    if longest > body:
        return None, f"spelling prompts take up to {longest} tokens, and a row holds {body} (subject.context_tokens; or lower absorption.n_shots)"
    sides = {side: _captured(case, side, found) for side, found in examples.items()}
    lost = sum(map(len, examples.values())) - sum(tokens.n_tokens for tokens in sides.values())
    for side, tokens in sides.items():
        if not tokens.n_tokens:
            return None, f"the tokenizer splits every word of the {side.replace('_', '-')} side where it stands in a prompt ({lost} words)"
    return sides, ""


def size_note(subject: Subject) -> str:
    """What SAEBench says of small subjects; empty for large ones."""
    n = subject.n_parameters() if hasattr(subject, "n_parameters") else None
    if n is None or n >= SMALL_PARAMETERS:
        return ""
    return (f"first-letter absorption of {subject.name} ({n:,} parameters) is not comparable with published values: SAEBench finds it meaningful from about "
            "2 billion parameters and 16,384 latents on, and under-trained SAEs score too low")


def vocabulary_words(subject: Subject) -> list[tuple[int, str]]:
    """Token ids that are nothing but ASCII letters, with a space before them or without, and their text."""
    try:
        n_vocabulary = subject.predict(subject.prepare([Example("a", "a", "a")])).shape[1]
    except SubjectError:
        return []
    texts = ((token_id, subject.token_text(token_id)) for token_id in range(n_vocabulary))
    return [(token_id, text) for token_id, text in texts if WORD.fullmatch(text)]


def too_few_words(words: list[str], config: AbsorptionConfig) -> str:
    """Why a vocabulary is too small, in words; empty where it is not. A held-out fifth, and a fifth for choosing, need least_units words each."""
    stems = {word.strip().lower() for word in words}
    counts = np.bincount([ord(stem[0]) - ord("a") for stem in stems], minlength=26)
    least = int(np.ceil(config.least_units / (HELD_OUT_FRAC * (1 - HELD_OUT_FRAC))))
    enough = int((counts >= least).sum())
    if enough >= config.least_letters:
        return ""
    return (f"the vocabulary has {len(stems)} words of nothing but letters, with {least} or more for {enough} first letters, "
            f"and {config.least_letters} letters are needed (absorption.least_letters)")


def _prompts(words: list[tuple[int, str]], config: AbsorptionConfig, rng: np.random.Generator) -> dict[str, list[Example]]:
    """Prompts of both sides; the solved examples of a prompt are words of its own side with another stem."""
    drawn = [words[index] for index in sorted(rng.permutation(len(words))[: config.n_words])]
    stems = sorted({word.strip().lower() for _, word in drawn})
    held = {stems[index] for index in rng.permutation(len(stems))[: round(HELD_OUT_FRAC * len(stems))]}
    sides: dict[str, list[tuple[int, str]]] = {"fit": [], "held_out": []}
    for token_id, word in drawn:
        sides["held_out" if word.strip().lower() in held else "fit"].append((token_id, word))
    return {side: [_prompt(token_id, word, [other for _, other in found], config.n_shots, rng) for token_id, word in found] for side, found in sides.items()}


def _prompt(token_id: int, word: str, others: list[str], n_shots: int, rng: np.random.Generator) -> Example:
    stem = word.strip().lower()
    picked = [others[index] for index in rng.integers(len(others), size=2 * n_shots + 10)]
    shots = [other for other in dict.fromkeys(picked) if other.strip().lower() != stem][:n_shots]
    solved = [TEMPLATE.format(word=other) + ANSWER.format(letter=other.strip()[0].upper()) for other in shots]
    text = SEPARATOR.join(["", *solved, TEMPLATE.format(word=word)])
    start = len(text) - len(TEMPLATE.format(word=word))
    span = Span(start + len(word) - len(stem), start + len(word), KIND, stem[0])
    return Example(f"{KIND}/{token_id}", text, stem, {"token_id": str(token_id)}, (span,))


def _captured(case: Case, side: str, examples: list[Example]) -> Tokens:
    """The token of each prompt's word, where the word is one token there too."""
    subject = case.need_subject("read spelling prompts")
    sizes, policy = subject.n_tokens(examples), subject.ref().token_policy
    rows: list[tuple[int, int, int, int]] = []
    values = []
    for indices in batches_by_length(sizes, case.config.batch_tokens, policy):
        batch = subject.prepare([examples[index] for index in indices])
        case.count_pass(batch.n_tokens)
        spans = torch.tensor([[span.start, span.end] for index in indices for span in examples[index].spans])[batch.example]
        inside = ((batch.char_start < spans[:, 1]) & (batch.char_end > spans[:, 0])).nonzero()[:, 0]
        wanted = torch.tensor([int(examples[index].labels["token_id"]) for index in indices])[batch.example]
        alone = torch.bincount(batch.example[inside], minlength=len(indices))[batch.example] == 1
        found = inside[(alone & (batch.token_id == wanted))[inside]]
        values.append(subject.capture(batch, [case.site])[case.site][found.to(subject.device)].float().cpu())
        rows += [(indices[int(batch.example[at])], int(batch.position[at]), int(batch.char_start[at]), int(batch.char_end[at])) for at in found]
    order = np.argsort([row[0] for row in rows], kind="stable")
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)[order]
    kept = [examples[index] for index in table[:, 0]]
    groups = sorted({example.group for example in kept})
    number = {group: index for index, group in enumerate(groups)}
    return Tokens(f"{KIND}, {side.replace('_', '-')} side", kept, np.arange(len(kept)), np.array([number[example.group] for example in kept], dtype=np.int64),
                  groups, table[:, 1], np.array([int(example.labels["token_id"]) for example in kept], dtype=np.int64), table[:, 2], table[:, 3],
                  torch.cat(values)[torch.from_numpy(order)] if values else torch.zeros(0, 0), np.arange(len(kept)), case.site)
