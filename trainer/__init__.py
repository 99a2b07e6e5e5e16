"""Training on PTB-XL: data, models, thresholds, evaluation. Imports edge (the same filters that are served)."""
