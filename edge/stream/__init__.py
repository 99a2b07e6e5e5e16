"""From payloads to an ordered, gap-aware run of samples."""
