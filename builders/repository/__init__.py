"""model_repository/: what is published, how it got there and how to go back."""
