"""Load tests: locust scenarios, sweeps, reports. Helpers begin with ``_`` because locust imports every other file here."""
