"""What a user edits: the scenarios that ``locust -f loadtest/`` runs. The machinery is in measure/."""
