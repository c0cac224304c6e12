"""What the functions of logits are, in long double, from the sum of all exponentials but the largest."""

import numpy as np


class Exact:
    """The functions of rows of logits and labels in long double; at a temperature T, those of logits / T."""

    def __init__(self, x, labels, temperature=1.0):
        wide = x.astype(np.longdouble)
        i, top = np.arange(len(x)), wide.argmax(axis=1)
        m = wide[i, top][:, np.newaxis]
        difference = (wide - m) / np.longdouble(temperature)
        with np.errstate(under="ignore"):
            e = np.exp(difference)
            others = e.copy()
            others[i, top] = 0
            rest = others.sum(axis=1)
            total = 1 + rest
            self.softmax = e / total[:, np.newaxis]
        self.log_sum = np.log1p(rest)
        self.log_softmax = difference - self.log_sum[:, np.newaxis]
        self.logsumexp = m[:, 0] + self.log_sum
        self.size = np.abs(m[:, 0]) + self.log_sum
        self.loss = self.log_sum - difference[i, labels]
        self.gradient = self.softmax.copy()
        rests = others.sum(axis=1) + 1 - e[i, labels]
        self.gradient[i, labels] = -np.where(labels == top, rest, rests) / total
        self.gradient /= np.longdouble(temperature)
