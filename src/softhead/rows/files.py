"""`open_rows`: files and folders as sources of rows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from softhead.rows.arrays import ArrayBlocks, HeldArray, StoredArray, array_of, npz_blocks
from softhead.rows.source import RowSource

_ARROW = (".parquet", ".arrow", ".feather")
_SVMLIGHT = (".svm", ".svmlight", ".libsvm")
_ACCEPTED = "folders of .parquet files, and .parquet, .arrow, .feather, .npz, .npy, .svm, .svmlight and .libsvm files"


def open_rows(
    path: Any,
    *,
    target: Any = None,
    features: Any = None,
    sample_weight: Any = None,
    classes: Any = None,
    encode: Callable[[Any], Any] | None = None,
    block_rows: int | None = None,
) -> RowSource:
    """Open a file, or a folder of files, as rows that are read in blocks, however many there are.

    Nothing but a schema is read at first. A fit reads the rows once to check and to count them, and then once a pass.

    Parameters
    ----------
    path : str, path-like or ndarray
        By its suffix: a Parquet file, or a folder with such files, in the order of their names; an Arrow IPC file
        (``.arrow``, ``.feather``); ``.npz`` and ``.npy``, which are read from disk and not mapped; svmlight files
        (``.svm``, ``.svmlight``, ``.libsvm``), whose labels are in them. Or an array, such as a memory map.
    target : str, path-like or array-like, optional
        The labels: the name of a column, or of an array in the ``.npz`` file; for ``.npy`` files and arrays the labels
        themselves or the path of a ``.npy`` file. None for rows to predict.
    features : str or list of str, optional
        The columns with the features, numbers or lists of numbers of one length; all but the target and the weights by
        default. Or the name of the array in the ``.npz`` file. For svmlight files the number of features, an int; by
        default they are read once to find it.
    sample_weight : str, path-like or array-like, optional
        The weights of the rows, given like `target`.
    classes : array-like, optional
        All labels, where they are known: see `RowSource`.
    encode : callable, optional
        Turns a pyarrow Table of the features into a matrix: the ``transform`` of a fitted `TableEncoder`, for columns
        that are not numbers.
    block_rows : int, optional
        Rows of a block; as many as 32 MB hold by default. The last bits of a fit depend on it.

    Returns
    -------
    RowSource

    Raises
    ------
    ValueError
        If the suffix is unknown, a column or an array is missing, or one is not made of numbers.
    OSError
        If there is no such file.
    ImportError
        For Parquet and Arrow files without pyarrow (the extra ``cli``).

    References
    ----------
    Apache Parquet and Arrow IPC: https://arrow.apache.org/docs/format. The svmlight format:
    https://www.cs.cornell.edu/people/tj/svm_light.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from softhead import SoftmaxClassifier, open_rows
    >>> X, y = load_iris(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "iris.npz")
    ...     np.savez(path, X=X, y=y)
    ...     rows = open_rows(path, features="X", target="y", block_rows=40)
    ...     model = SoftmaxClassifier().fit(rows)
    ...     model.score(rows)
    0.97...
    """
    if block_rows is not None and not (isinstance(block_rows, int | np.integer) and block_rows >= 1):
        raise ValueError(f"block_rows: got {block_rows!r}; it must be an integer from 1 on")
    if features is not None and (isinstance(path, np.ndarray) or str(path).lower().endswith(".npy")):
        raise ValueError(f"features: got {features!r}; the features of an array or a .npy file are all its columns")
    if isinstance(path, np.ndarray):
        held = ArrayBlocks(HeldArray(path), array_of(target), array_of(sample_weight), block_rows)
        return RowSource(held, classes=classes)
    path = Path(os.fspath(path))
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in _ARROW:
        from softhead.rows.arrow import open_tables

        tables, names = open_tables(path, target, features, sample_weight, encode, block_rows)
        return RowSource(tables, classes=classes, feature_names=names)
    if encode is not None:
        raise ValueError(f"encode: {path} is no table of columns; its features are numbers as they are")
    if not path.exists():
        raise FileNotFoundError(2, "No such file or folder", str(path))
    if suffix == ".npy":
        stored = ArrayBlocks(StoredArray(path), array_of(target), array_of(sample_weight), block_rows)
        return RowSource(stored, classes=classes)
    if suffix == ".npz":
        return RowSource(npz_blocks(path, target, features, sample_weight, block_rows), classes=classes)
    if suffix in _SVMLIGHT:
        from softhead.rows.svmlight import SvmlightBlocks

        if target is not None or sample_weight is not None:
            raise ValueError("target, sample_weight: an svmlight file holds its labels, and has no weights")
        return RowSource(SvmlightBlocks(path, features), classes=classes)
    raise ValueError(f"path: {path} has the unknown suffix {path.suffix!r}; accepted are {_ACCEPTED}")
