"""One setting of a server under one load: how sweep and tune apply it, measure it and report it."""
