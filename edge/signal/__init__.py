"""Number crunching on samples: leads, resampling, filtering, quality. Knows nothing of streams, models or MQTT."""
