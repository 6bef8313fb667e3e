"""What is said where a population that lies on a disk cannot be taken as it is."""

from typing import Any

from fedjaxlite.data.on_disk.folder import about


def in_memory_only(what: str, remedy: str = "", **populations: Any) -> None:
    """Refuses populations on a disk.

    Args:
      what: needs them in memory, such as "fl.sweep".
      remedy: what else could be done.
      **populations: by the argument's name; what is no Population is let through.

    Raises:
      ValueError: says where it lies, and what to do.
    """
    for name, population in populations.items():
        stored = getattr(population, "stored", None)
        if stored is not None:
            raise ValueError(
                f"`{name}` lies on a disk ({about(stored)}), and {what} needs all of it in memory. Give "
                f"{name}.in_memory() where it fits{', or ' + remedy if remedy else ''}."
            )
