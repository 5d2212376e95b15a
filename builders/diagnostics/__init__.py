"""Commands that look into engines and graphs: bench, layers, search."""
