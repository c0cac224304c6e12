"""The command line: reading data, training, predicting, evaluating."""
