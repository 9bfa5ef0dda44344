"""Say where things are: intervals, sequence, signal tracks, variants, and a simulated genome."""
