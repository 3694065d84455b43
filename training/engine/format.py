"""Numbers as people read them."""


def format_bytes(count: float) -> str:
    """Format a number of bytes in decimal units, for example `1.21 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:  # which three digits would round to 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
