"""The settings of the model that people try in the explorer, as a table. Used by make_docs.py."""

from docs_activations import table


def live_settings_block() -> str:
    """Every field of LiveConfig."""
    from sparselight.serve.live.config import LiveConfig

    rows = [(f"`live.{name}`", "as the recipe" if field.default is None else f"{field.default:,}", field.description or "")
            for name, field in LiveConfig.model_fields.items()]
    return "\n".join(table(("Setting", "Default", "What it sets"), rows)).rstrip()
