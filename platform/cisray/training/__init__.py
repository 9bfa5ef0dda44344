"""Say what learning means: batches, objectives, optimizers, metrics and the loop."""
