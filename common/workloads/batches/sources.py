"""Where a document's tokens come from: out of its text each time, from a list, from a file."""

import numpy as np

from common.gpt.text import END_OF_TEXT, encode
from common.workloads.batches.documents import Documents, starts, stream


class Tokenised:
    """Each time a document is asked for, its text is tokenised."""

    def __init__(self, documents: Documents) -> None:
        self.texts = documents.texts
        self.encoded = 0  # texts, in this process

    def tokens(self, number: int) -> np.ndarray:
        """<|endoftext|>, the document's tokens, <|endoftext|>: (n + 2,) int64."""
        self.encoded += 1
        return np.array([END_OF_TEXT, *encode(self.texts[number]), END_OF_TEXT])

    def lengths(self) -> np.ndarray:
        """How many inputs each document makes, uncut: (documents,)."""
        return np.array([len(self.tokens(number)) - 1 for number in range(len(self.texts))])


class InLists(Tokenised):
    """Every text is tokenised once, into a list of Python numbers."""

    def __init__(self, documents: Documents) -> None:
        super().__init__(documents)
        whole = range(len(documents.texts))
        self.ids = [super(InLists, self).tokens(number).tolist() for number in whole]

    def tokens(self, number: int) -> np.ndarray:
        return np.array(self.ids[number])


class Mapped:
    """Every text was tokenised once, into a file that is mapped into memory."""

    encoded = 0

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.stream = stream(documents)
        self.starts = starts(self.stream)

    def __reduce__(self):
        """A process that is not forked opens the file for itself: an array would be sent whole."""
        return type(self), (self.documents,)

    def tokens(self, number: int) -> np.ndarray:
        begin, end = self.starts[number : number + 2]
        return self.stream[begin : end + 1].astype(np.int64)

    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)
