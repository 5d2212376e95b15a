"""Commands that inspect engines and graphs: bench, layers, search."""
