"""The third stage: models under study, their sites, and hooks that read and edit activations.

Owns: loading a subject, the token policy's application, site addresses. Nothing here imports transformers before a model is loaded.
"""

from sparselight.subjects.causal_lm import CausalLM
from sparselight.subjects.config import SubjectConfig
from sparselight.subjects.load import load_subject

__all__ = ["CausalLM", "SubjectConfig", "load_subject"]
