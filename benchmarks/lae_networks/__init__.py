"""How well the LAE's networks reconstruct the LoRAs of new people. See `__main__`.

networks   which networks are compared, and how each is made and trained
table      what is printed
"""
