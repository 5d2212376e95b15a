"""What every other package shares; imports nothing heavy.

Submodules are imported by name (``from planwright.errors import PlanwrightError``), so that importing this
package costs nothing.
"""

__version__ = "0.1.0"
