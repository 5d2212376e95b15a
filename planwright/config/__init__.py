"""config.yaml: its settings, a reader that reports every fault with its line, and its JSON schema."""
