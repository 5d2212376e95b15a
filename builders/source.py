"""The names that zoo files written for 0.1 import from here; new ones import from `builders.sources.base`."""

from builders.sources.base import Later, Sample, Samples, Source

__all__ = ["Later", "Sample", "Samples", "Source"]
