"""How many teachers does it take? See `__main__`.

arguments  the command line
curves     the table and the figure
"""
