"""Why a model says what it says of ten seconds of ECG: attributions per lead and moment, drawn on ECG paper."""
