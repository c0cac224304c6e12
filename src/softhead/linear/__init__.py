"""The model behind the estimator: objective, preconditioner, solver and certificate."""
