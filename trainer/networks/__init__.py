"""Networks that classify a whole window at once: what the streaming model is compared with and taught by."""
