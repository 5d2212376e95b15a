"""The same load by MLPerf LoadGen, beside ours."""
