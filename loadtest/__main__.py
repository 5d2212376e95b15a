"""``python -m loadtest``: see `measure.cli`."""

from measure.cli import main
from planwright import console

if __name__ == "__main__":
    console.run(main)
