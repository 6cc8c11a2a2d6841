"""Tables of who used what and when, read as a corpus: one example a user, one item a token.

Owns: formats of interaction tables (`formats.py`), cleaning (`table.py`), item metadata (`items.py`), splits in time (`split.py`), and the
examples (`histories.py`). Import from those files: the corpus config knows `config.py`, and nothing here may be loaded before it.
"""
