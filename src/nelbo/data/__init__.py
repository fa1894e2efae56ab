"""Images from a person's own files: decoded once into one uint8 store, split by content.

    store = open_store("photos/", IntakeOptions(image_size=(64, 64)))
    split = store.split(threshold_for(store.hashes))
    x_0 = levels_to_unit(torch.from_numpy(store.images[split.train[:8]]))

Importing this package imports numpy and Pillow, not torch.
"""

from nelbo.data.decode import IntakeOptions
from nelbo.data.errors import DataError, Skipped
from nelbo.data.grid import levels_to_unit, unit_to_levels
from nelbo.data.labels import labelled
from nelbo.data.split import Split, hash_number, split_by_threshold, threshold_for
from nelbo.data.store import Store, open_store

__all__ = [
    "DataError",
    "IntakeOptions",
    "Skipped",
    "Split",
    "Store",
    "hash_number",
    "labelled",
    "levels_to_unit",
    "open_store",
    "split_by_threshold",
    "threshold_for",
    "unit_to_levels",
]
