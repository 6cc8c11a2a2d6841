"""The explorer: run folders as pages and JSON on this machine, read-only by default."""

from sparselight.serve.settings import ServeSettings

__all__ = ["ServeSettings"]
