"""What a load test shall do: settings, profiles of load, arrivals."""
