"""Explanations by a language model behind any OpenAI-compatible endpoint: client, answers on disk, caps, prompts, explainer."""

from sparselight.interpret.llm.asking import Asker, Tally
from sparselight.interpret.llm.budget import Budget, Estimate, Usage
from sparselight.interpret.llm.chat import Answer, ChatRequest, Message, Sampling
from sparselight.interpret.llm.client import LlmClient
from sparselight.interpret.llm.config import LlmConfig, ScorersConfig
from sparselight.interpret.llm.explainer import LlmExplainer
from sparselight.interpret.llm.prompts import Prompts

__all__ = [
    "Answer", "Asker", "Budget", "ChatRequest", "Estimate", "LlmClient", "LlmConfig", "LlmExplainer", "Message", "Prompts", "Sampling", "ScorersConfig",
    "Tally", "Usage",
]
