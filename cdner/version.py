"""The version of cdner."""

__version__ = "0.1.0"
