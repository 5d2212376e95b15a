"""config.yaml: what it may say, read with every fault and its line, and its JSON schema."""
