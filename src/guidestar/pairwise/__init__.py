"""Statistics of all pairs of two sets of features: what contrastive losses are made of, with or without the matrix."""
