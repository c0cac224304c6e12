"""Pictures of a classifier, by scikit-learn's conventions: `from_estimator`, `from_predictions`, `plot(ax=...)`."""
