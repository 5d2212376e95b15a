"""Everything that measures what is served: load tests, sweeps, tuning, comparisons. Locust never scans this folder."""
