"""The stages of a build: export, graph, compile, verify; publishing is in builders/repository/."""
