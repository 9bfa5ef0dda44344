"""Say what a variant changes: alleles, effects, the score table."""
