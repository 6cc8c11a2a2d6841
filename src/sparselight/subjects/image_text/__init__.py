"""Vision-language models as subjects: images become tokens of a language model, or the vision encoder is studied by itself."""
