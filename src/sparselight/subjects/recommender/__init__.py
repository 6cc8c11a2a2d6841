"""Recommenders as subjects: a user's history, or a user, becomes one vector; scores are its products with the vectors of the items.

Owns: the contract of a recommender's module (`module.py`), the subject over it (`subject.py`), four models that are trained here (`models`, `train.py`),
adapters (`rechorus.py`, `cornac.py`), scoring in bounded memory (`scoring.py`). Its names stand in `sparselight.subjects`; the subject's config knows
`config.py` alone, so nothing is loaded here.
"""
