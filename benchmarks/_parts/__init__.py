"""What benchmarks share: inputs, a server, the record; users and proxies to compare with."""
