"""Numbers in a readable form."""


def show_bytes(size: float) -> str:
    """Bytes with three digits and a unit, in powers of 1000."""
    return f"{show_count(size)}B"


def show_memory(size: float) -> str:
    """Bytes with two decimals and a unit, in powers of 1024, as memories are sold."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= one:
            return f"{size / one:,.2f} {unit}"
    return f"{size:.0f} B"


def show_seconds(value: float) -> str:
    """A time with three digits and a unit."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def show_count(number: float) -> str:
    """A number with three digits and a unit: 12.3 M."""
    if number < 1000:
        return f"{number:.0f} "
    for unit in ("k", "M", "G", "T", "P"):
        number /= 1000
        if number < 999.5 or unit == "P":
            break
    return f"{number:.{max(0, 3 - len(str(int(number))))}f} {unit}"
