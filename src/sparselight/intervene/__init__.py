"""The stage that changes a subject's latents and measures what follows.

Owns: edits as functions on activations, control latents, and the effect and side effect of an edit.
"""

from sparselight.intervene.control import fire_rates, pick_control
from sparselight.intervene.edit import Dictionary, check_edit, edit_function
from sparselight.intervene.effects import edit_result, kl_nats, mean_kl

__all__ = ["Dictionary", "check_edit", "edit_function", "edit_result", "fire_rates", "kl_nats", "mean_kl", "pick_control"]
