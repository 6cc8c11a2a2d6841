"""What the explorer shows of run folders, as plain functions: run folder in, models of `serve.models` out. No web framework in here."""
