"""Cross-check of our load generator against MLPerf LoadGen."""
