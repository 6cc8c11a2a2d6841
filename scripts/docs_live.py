"""The settings of the model that people try in the explorer, as a table. Used by make_docs.py."""

from docs_activations import table


def live_settings_block() -> str:
    """Every field of LiveConfig."""
    from sparselight.serve.live.config import LiveConfig

    def said(value: object) -> str:
        return "as the recipe" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:,}"

    rows = [(f"`live.{name}`", said(field.default), field.description or "") for name, field in LiveConfig.model_fields.items()]
    return "\n".join(table(("Setting", "Default", "What it sets"), rows)).rstrip()
