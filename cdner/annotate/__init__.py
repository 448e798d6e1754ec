"""Bulk annotation: sentences of a file through a trained model, in blocks that are each written once and whole.

``source`` cuts the input into blocks, ``method`` says what a trained run needs, ``worker`` annotates one block,
``output`` writes it, ``driver`` goes over those that are missing with an engine: this process, or Ray.
"""
