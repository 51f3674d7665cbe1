# SPDX-License-Identifier: MIT
"""Reads a result file: attributes as Python values, texts as str, ragged arrays per prompt."""

import os

import h5py
import numpy as np


class NotAResult(Exception):
    """The file cannot be read as a result of causa."""


def plain(value):
    """An attribute as str, int, float or a list of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return value


class Result:
    """An open result file. Use as a context manager."""

    def __init__(self, path):
        self.path = path
        self.name = os.path.splitext(os.path.basename(path))[0]
        if not os.path.exists(path):
            raise NotAResult("expected a result file, got no such file")
        if os.path.isdir(path):
            raise NotAResult("expected an HDF5 file, got a folder")
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise NotAResult(f"expected an HDF5 file, got one that HDF5 refuses ({error})")
        if plain(self.file.attrs.get("tool")) != "causa":
            self.file.close()
            raise NotAResult('expected the root attribute tool = "causa", got another or none')

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.file.close()

    def attributes(self, path="/"):
        """Attributes of an object without those of dimension scales; {} when it is absent."""
        hidden = {"CLASS", "NAME", "DIMENSION_LABELS", "DIMENSION_LIST", "REFERENCE_LIST"}
        if path not in self.file:
            return {}
        return {k: plain(v) for k, v in self.file[path].attrs.items() if k not in hidden}

    def attribute(self, name, default=""):
        return self.attributes("/").get(name, default)

    def has(self, path):
        return path in self.file

    def is_group(self, path):
        return path in self.file and isinstance(self.file[path], h5py.Group)

    def has_in(self, group, name):
        """Whether `group` is a group (and no dataset) with a member of that name."""
        return self.is_group(group) and name in self.file[group]

    def array(self, path):
        """A whole numeric dataset, None when it is absent."""
        return self.file[path][()] if path in self.file else None

    def texts(self, path):
        """A string dataset as nested lists of str, None when it is absent."""
        if path not in self.file:
            return None
        raw = self.file[path][()]
        decode = np.vectorize(
            lambda item: item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item),
            otypes=[object],
        )
        return decode(raw).tolist() if raw.size else raw.tolist()

    def members(self, path):
        """Names of a group's own members, in creation order where the file keeps it."""
        if path not in self.file:
            return []
        group, names = self.file[path].id, []
        tracked = group.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
        group.links.iterate(names.append,
                            idx_type=h5py.h5.INDEX_CRT_ORDER if tracked else h5py.h5.INDEX_NAME)
        found = [name.decode("utf-8", "replace") for name in names]
        links = {name: self.file[path].get(name, getlink=True) for name in found}
        return [name for name in found if isinstance(links[name], h5py.HardLink)]

    def walk(self, path="/"):
        """Every group and dataset below a group as (path, object), a group before its members."""
        for name in self.members(path):
            child = f"{path.rstrip('/')}/{name}"
            yield child, self.file[child]
            if isinstance(self.file[child], h5py.Group):
                yield from self.walk(child)

    def datasets(self):
        """Every dataset as (path, h5py.Dataset), links to other files left out."""
        return [(path, item) for path, item in self.walk() if isinstance(item, h5py.Dataset)]
