"""What runs inside the sandbox. Imports nothing of the package but itself, so that it starts in milliseconds."""
