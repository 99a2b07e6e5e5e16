"""Alerts: conditions with a life, decided per stream, kept until they are delivered. Knows nothing of MQTT clients."""
