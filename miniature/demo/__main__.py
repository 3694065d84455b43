"""The command `python -m miniature.demo`."""

from .run import main

main()
