"""Drop-in services: what the generator does. It needs nothing but Python's own library."""
