"""What runs inside locust: users, their connections, the run from its start to its report."""
