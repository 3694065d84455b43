"""How many teachers does it take? See `__main__`."""
