"""PBRC (paper, section 3.3): the requests that ask an LLM for reasoning, and the reading of its answers.

Knows nothing of backends, the store or gold labels: sentences come in as text.
"""

from cdner.reasoning.parsing import entities_text, parse_description, parse_reasoning, without_entities
from cdner.reasoning.requests import description_requests, reasoning_requests

__all__ = [
    "description_requests",
    "entities_text",
    "parse_description",
    "parse_reasoning",
    "reasoning_requests",
    "without_entities",
]
