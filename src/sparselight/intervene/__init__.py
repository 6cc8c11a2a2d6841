"""The stage that changes a subject's latents and measures what follows.

Owns: edits as functions on activations, sessions in which they stay in place, text and sequences and ranking lists with and without them, control
latents, and the effect and side effect of an edit.
"""

from sparselight.intervene.control import fire_rates, pick_control
from sparselight.intervene.edit import Dictionary, as_edits, check_edit, edit_function, edit_functions
from sparselight.intervene.effects import edit_result, kl_nats, mean_kl
from sparselight.intervene.generate import Written, check_reach, generate_with
from sparselight.intervene.ranking import RankingChange, compare_rankings, ranking_change
from sparselight.intervene.scales import measure_scales, scales_from_cards, swap_edit
from sparselight.intervene.session import editing
from sparselight.intervene.splice import Splice
from sparselight.intervene.unmask import Unmasked, unmask

__all__ = [
    "Dictionary", "RankingChange", "Splice", "Unmasked", "Written", "as_edits", "check_edit", "check_reach", "compare_rankings", "edit_function",
    "edit_functions", "edit_result", "editing", "fire_rates", "generate_with", "kl_nats", "mean_kl", "measure_scales", "pick_control", "ranking_change",
    "scales_from_cards", "swap_edit", "unmask",
]
