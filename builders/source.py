"""The names that zoo files written for 0.1 import from here; new ones import from `builders.sources.base`."""

from builders.sources.base import Later as Later
from builders.sources.base import Sample as Sample
from builders.sources.base import Samples as Samples
from builders.sources.base import Source as Source
