"""The catalogue: all cards of a run in one DuckDB file, `catalogue.duckdb`, for SQL, Python and the command line."""

from sparselight.interpret.catalogue.reading import SORTS, Catalogue, load_catalogue
from sparselight.interpret.catalogue.writing import FILE_NAME, save_catalogue, write_catalogue

__all__ = ["FILE_NAME", "SORTS", "Catalogue", "load_catalogue", "save_catalogue", "write_catalogue"]
