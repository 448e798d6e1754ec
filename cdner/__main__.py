"""``python -m cdner``: the same command where the script is not on PATH."""

from cdner.cli import main

main()
