"""Parts shared by the benchmarks: inputs, a server, records; users and proxies to compare with."""
