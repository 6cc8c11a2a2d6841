"""`python -m sparselight` is the `sparselight` command."""

from sparselight.cli import main

main()
