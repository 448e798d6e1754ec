"""Everything that decides what an LLM reads: label sets, in-context examples, templates and their rendering.

The content lies in ``prompts/`` (TOML and Jinja), so a new domain or a new wording is a new file and no code.
This package knows nothing of backends, sampling, the store, or how an answer is read back.
"""

from cdner.prompts.domains import domain_from_labels, domain_names, load_domain
from cdner.prompts.examples import Example, ExampleEntity, ExampleStep, load_examples
from cdner.prompts.files import checked_name
from cdner.prompts.rendering import (
    INITIAL_PART,
    OutputPart,
    PbrcInputs,
    output_parts,
    render_description,
    render_fixed_part,
    render_pbrc,
    render_sentence,
)
from cdner.prompts.templates import Template, load_template, template_names

__all__ = [
    "INITIAL_PART",
    "Example",
    "ExampleEntity",
    "ExampleStep",
    "OutputPart",
    "PbrcInputs",
    "Template",
    "checked_name",
    "domain_from_labels",
    "domain_names",
    "load_domain",
    "load_examples",
    "load_template",
    "output_parts",
    "render_description",
    "render_fixed_part",
    "render_pbrc",
    "render_sentence",
    "template_names",
]
