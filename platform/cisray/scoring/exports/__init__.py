"""A score table in the formats of other programs: each writer streams, and writes its file whole or not at all."""
