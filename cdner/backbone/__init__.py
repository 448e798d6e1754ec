"""Text-to-text models: load, train, generate, embed. Knows nothing of entities, types or prompts.

Importing this package imports no torch: ``open_backbone`` and ``fit`` live in ``cdner.backbone.opening`` and
``cdner.backbone.training``, which load the heavy libraries when they are called.
"""
