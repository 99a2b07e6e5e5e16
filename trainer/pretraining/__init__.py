"""Learning from ECG without labels: one loop, and methods that each say what there is to learn."""
