"""`TextEncoder`: texts to the sparse matrix of weighted words that a linear model takes."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from softhead._state import fields, require, texts


class TextEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Encode texts as a sparse float32 matrix with a column for each word, by scikit-learn's `TfidfVectorizer`.

    A word :math:`w` that is :math:`k` times in a text, and in :math:`n_w` of the :math:`n` texts of `fit`, becomes

    .. math:: (1 + \ln k) \Big(\ln \frac{1 + n}{1 + n_w} + 1\Big)

    divided by the Euclidean norm of these numbers over the words of the text. Words are runs of two or more letters,
    digits and underscores, in lower case; those not seen in `fit` are left out.

    Parameters
    ----------
    max_words : int, default=1
        Up to so many words in succession have columns of their own as well; at least 1.
    min_texts : int, default=1
        The number of texts that a word must be in to have a column; at least 1.
    max_columns : int or None, default=None
        The most columns: the words that are most frequent in all texts together. None for no limit.

    Attributes
    ----------
    vocabulary_ : ndarray of shape (n_output_columns,), dtype object
        The words, in the order of their columns.
    idf_ : ndarray of shape (n_output_columns,), dtype float32
        The second factor above.
    feature_names_in_ : ndarray of shape (1,), dtype object
        The name of the column, where `fit` was given a table.

    Notes
    -----
    A text that is missing (None or NaN) counts as empty. An empty text, and one without known words, is a row of zeros.

    References
    ----------
    Manning, Raghavan and Schütze, *Introduction to Information Retrieval*, 2008, section 6.4.

    Examples
    --------
    >>> from softhead import TextEncoder
    >>> encoder = TextEncoder().fit(["a red house", "the red fox", "the fox the fox"])
    >>> encoder.vocabulary_.tolist()
    ['fox', 'house', 'red', 'the']
    >>> encoder.transform(["red fox", None]).toarray().round(2)
    array([[0.71, 0.  , 0.71, 0.  ],
           [0.  , 0.  , 0.  , 0.  ]], dtype=float32)
    """

    vocabulary_: NDArray[np.object_]
    idf_: NDArray[np.float32]
    _vectorizer: TfidfVectorizer

    def __init__(self, *, max_words: int = 1, min_texts: int = 1, max_columns: int | None = None) -> None:
        self.max_words = max_words
        self.min_texts = min_texts
        self.max_columns = max_columns

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn the words and their weights.

        Parameters
        ----------
        X : iterable of str, array of shape (n_texts,) or (n_texts, 1), or data frame (pandas, polars, pyarrow)
            The texts; a data frame must have one column.
        y : None
            Ignored.

        Returns
        -------
        self : TextEncoder

        Raises
        ------
        TypeError
            Where an entry is not a string and not missing; the message counts rows from 1.
        ValueError
            Where there is no word in any text, or a parameter is out of its range.
        """
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: object = None) -> csr_array:
        """Learn the words of texts, and encode these; parameters and errors are those of `fit`.

        Returns
        -------
        encoded : scipy.sparse.csr_array of shape (n_texts, n_output_columns), dtype float32
        """
        self._check_parameters()
        entries, name = _entries(X, None)
        self._vectorizer = self._make_vectorizer()
        try:
            encoded = self._vectorizer.fit_transform(entries)
        except ValueError as error:
            known = ("empty vocabulary", "no terms remain", "max_df corresponds")
            if not str(error).lower().startswith(known) and "no terms remain" not in str(error):
                raise
            least = f" that is in {self.min_texts} of them" if self.min_texts > 1 else ""
            raise ValueError(f"X: none of its {len(entries)} texts has a word to encode{least}") from None
        self.vocabulary_ = self._vectorizer.get_feature_names_out()
        self.idf_ = self._vectorizer.idf_
        self.__dict__.pop("feature_names_in_", None)
        if name is not None:
            self.feature_names_in_ = np.array([name], dtype=object)
        return csr_array(encoded)

    def transform(self, X: Any) -> csr_array:
        """Encode texts.

        Parameters
        ----------
        X : as in `fit`
            Of a data frame the column of the name in `fit` is taken, and others are ignored.

        Returns
        -------
        encoded : scipy.sparse.csr_array of shape (n_texts, n_output_columns), dtype float32

        Raises
        ------
        TypeError
            As for `fit`.
        ValueError
            Where a data frame has no such column.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", [None])
        return csr_array(self._vectorizer.transform(_entries(X, names[0])[0]))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the words, in the order of their columns; `input_features` is ignored."""
        check_is_fitted(self)
        return self.vocabulary_.copy()

    def to_state(self) -> dict[str, object]:
        """Return everything that was learnt as plain values and arrays, for the model file."""
        check_is_fitted(self)
        return {
            "max_words": int(self.max_words),
            "min_texts": int(self.min_texts),
            "max_columns": None if self.max_columns is None else int(self.max_columns),
            "feature_names": getattr(self, "feature_names_in_", None),
            "vocabulary": self.vocabulary_,
            "idf": self.idf_,
        }

    @classmethod
    def from_state(cls, state: object) -> Self:
        """Rebuild an encoder from `to_state`, whose every value is checked; its `transform` repeats bit for bit."""
        max_words, min_texts, max_columns, names, vocabulary, idf = fields(
            state,
            max_words=int,
            min_texts=int,
            max_columns=(int, type(None)),
            feature_names=(np.ndarray, type(None)),
            vocabulary=np.ndarray,
            idf=np.ndarray,
        )
        encoder = cls(max_words=max_words, min_texts=min_texts, max_columns=max_columns)
        encoder._check_parameters()
        words = texts(vocabulary)
        require(words and len(set(words)) == len(words), "words")
        require(idf.dtype == np.float32 and idf.shape == vocabulary.shape and np.isfinite(idf).all(), "weights")
        require((idf > 0.0).all(), "weights")
        encoder._vectorizer = encoder._make_vectorizer(vocabulary={word: column for column, word in enumerate(words)})
        encoder._vectorizer.idf_ = idf
        encoder.vocabulary_, encoder.idf_ = vocabulary, idf
        if names is not None:
            require(len(texts(names)) == 1, "feature names")
            encoder.feature_names_in_ = names
        return encoder

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _check_parameters(self) -> None:
        """Raise on parameters outside their ranges."""
        for name in ("max_words", "min_texts", "max_columns"):
            value = getattr(self, name)
            if value is None and name == "max_columns":
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; accepted is an integer of at least 1")

    def _make_vectorizer(self, vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
        return TfidfVectorizer(
            dtype=np.float32,
            sublinear_tf=True,
            ngram_range=(1, self.max_words),
            min_df=1 if vocabulary else self.min_texts,
            max_features=None if vocabulary else self.max_columns,
            vocabulary=vocabulary,
        )


def _entries(X: Any, name: str | None) -> tuple[list[str], str | None]:
    """Return texts as strings, and the name of their column if they came in a table."""
    import narwhals.stable.v2 as nw

    if isinstance(X, str):
        raise TypeError("X is a str; accepted are many texts, such as a list of str")
    found = None
    if nw.dependencies.is_into_dataframe(X):
        frame = nw.from_native(X, eager_only=True)
        if name is None and frame.shape[1] != 1:
            raise ValueError(f"X is a table of {frame.shape[1]} columns; accepted is one column of texts")
        names = [str(column) for column in frame.columns]  # pandas has any objects there
        found = names[0] if name is None else str(name)
        if found not in names:
            raise ValueError(f"X has no column {found!r}, which was encoded in fit")
        X = frame[:, names.index(found)]
    elif nw.dependencies.is_into_series(X):
        X = nw.from_native(X, series_only=True)
    elif hasattr(X, "shape"):
        if len(X.shape) == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if len(X.shape) != 1:
            raise ValueError(f"X is of shape {X.shape}; accepted are texts, of shape (n_texts,) or (n_texts, 1)")
    elif not isinstance(X, Iterable):
        raise TypeError(f"X is a {type(X).__name__}; accepted are texts, such as a list of str")
    return [_text(entry, row) for row, entry in enumerate(X, start=1)], found


def _differs_from_itself(entry: Any) -> bool:
    """Return whether an entry is a NaN, or what pandas has for one."""
    try:
        return bool(entry != entry)
    except (TypeError, ValueError):  # of which pandas.NA does not know; nor do arrays
        return type(entry).__name__ == "NAType"


def _text(entry: Any, row: int) -> str:
    """Return a text, of which a missing one is empty."""
    if isinstance(entry, str):
        return entry
    if entry is None or _differs_from_itself(entry):
        return ""
    raise TypeError(f"X, row {row}: found {entry!r:.80}, of type {type(entry).__name__}; accepted are strings")
