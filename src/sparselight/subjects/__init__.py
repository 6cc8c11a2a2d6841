"""The third stage: models under study, their sites, and hooks that read and edit activations.

Owns: loading a subject, the token policy's application, site addresses. Nothing here imports transformers before a model is loaded.
"""

from sparselight.subjects.batching import batches_by_length
from sparselight.subjects.causal_lm import CausalLM
from sparselight.subjects.config import SubjectConfig, TokenSettings
from sparselight.subjects.encoder import Encoder
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.subject import ImageText
from sparselight.subjects.image_text.vision import VisionEncoder
from sparselight.subjects.load import load_subject
from sparselight.subjects.masked_lm import MaskedLM
from sparselight.subjects.module import ModuleSubject
from sparselight.subjects.norms import kept_tokens, norm_limits
from sparselight.subjects.recommender.config import RecommenderConfig
from sparselight.subjects.recommender.cornac import from_cornac
from sparselight.subjects.recommender.folder import load_recommender
from sparselight.subjects.recommender.module import PlainRecommender, Recommender
from sparselight.subjects.recommender.rechorus import load_rechorus
from sparselight.subjects.recommender.subject import RecommenderSubject
from sparselight.subjects.recommender.train import train_recommender

__all__ = [
    "CausalLM", "Encoder", "HuggingFaceSubject", "ImageText", "ImageTextConfig", "MaskedLM", "ModuleSubject", "PlainRecommender", "Recommender",
    "RecommenderConfig", "RecommenderSubject", "SubjectConfig", "TokenSettings", "VisionEncoder", "batches_by_length", "from_cornac", "kept_tokens",
    "load_rechorus", "load_recommender", "load_subject", "norm_limits", "train_recommender",
]
