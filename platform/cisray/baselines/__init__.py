"""Shallow models that keep deep ones honest."""
