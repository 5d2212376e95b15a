"""config.yaml → model_repository/: export, graph, compile, verify, publish."""
