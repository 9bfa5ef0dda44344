"""Say what a dataset is: windows, splits, rows, and the card that describes them."""
