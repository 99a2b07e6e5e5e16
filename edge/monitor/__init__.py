"""The engine: one stream's samples become hops, hops become scores. Knows nothing of MQTT, files or clocks."""
