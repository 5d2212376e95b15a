"""report.json and report.html: figures, verdict, pictures; and reports read back."""
