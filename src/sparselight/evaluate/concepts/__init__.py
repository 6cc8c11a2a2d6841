"""Which latent stands for which concept: marks of concepts, firings of latents, the search of all pairs, scores of the chosen ones, chance.

What the families `association` and `coverage` share. Choices are made on the fit side, scores are taken on the held-out side.
"""
