"""cdner: cross-domain named entity recognition that measures confusion between types and reasons it away."""

__version__ = "0.1.0"
