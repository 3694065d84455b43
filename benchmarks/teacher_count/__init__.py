"""How many teachers does it take? See `__main__`.

curves    the table and the figure
"""
