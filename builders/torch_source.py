"""The name that zoo files written for 0.1 import from here; new ones import from `builders.sources.pytorch`."""

from builders.sources.pytorch import TorchSource

__all__ = ["TorchSource"]
