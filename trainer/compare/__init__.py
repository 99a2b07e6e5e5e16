"""All presets trained, measured and put into one table."""
