"""Read tables of measured sequences, divide their rows, and find those that are alike."""
