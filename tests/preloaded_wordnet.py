"""Reads WordNet where it is imported: once in the fork server instead of in every process of a test."""

from cdner.confusion.descriptions import gloss
from cdner.prompts import load_domain

gloss(load_domain("film").entries[0])
