"""Gold and predicted entities side by side, in the formats other tools read; one format a file.

Pure writing: knows no store and no run but by the name it is told. Every format is a function that writes to a path
that does not exist yet and returns nothing; who calls it moves the result to where it is wanted.
"""

from cdner.formats.exported import ExportedCorpus, Sureness, records, scores, sureness

__all__ = ["ExportedCorpus", "Sureness", "records", "scores", "sureness"]
