"""Train models that read DNA, and use them to score what a variant changes, on Ray."""

__version__ = "0.1.0"
