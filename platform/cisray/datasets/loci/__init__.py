"""Say which stretch of a genome plays which role: regions, folds, windows, masks, and what splits share."""
