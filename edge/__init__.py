"""ecg-edge: a streaming 12-lead ECG monitor for edge devices. Research use only; not a medical device."""

__version__ = "0.1.0"

RESEARCH_USE_ONLY = "Research use only. Not a medical device."
