"""What a recommender's latents stand for, in sets of items: a concept for each latent, and how far it predicts the latent on held-out sequences.

Owns: candidate concepts out of item metadata (`candidates.py`), the instances that they are found and tested on (`instances.py`), the dictionary with its
controls (`dictionary.py`, `verify.py`). The route by a language model is that of `interpret.llm` and the level prediction of `interpret.scorers`.
"""

from sparselight.interpret.item_concepts.candidates import Candidates, make_candidates, members_of
from sparselight.interpret.item_concepts.config import ItemConceptsConfig
from sparselight.interpret.item_concepts.dictionary import concept_dictionary
from sparselight.interpret.item_concepts.instances import Instances, draw_instances

__all__ = ["Candidates", "Instances", "ItemConceptsConfig", "concept_dictionary", "draw_instances", "make_candidates", "members_of"]
