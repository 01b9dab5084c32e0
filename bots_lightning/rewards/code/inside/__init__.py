"""What runs inside of the sandbox; standard library only, and importable without the rest of the package."""
