"""One setting of a server under one load: how sweep and tune set it, measure it and show it."""
