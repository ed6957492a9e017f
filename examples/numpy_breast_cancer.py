"""Plain NumPy: logistic regression on scikit-learn's breast cancer data, by `value_and_grad`.

There is no autodiff here. The benign samples are the more frequent; weights make both classes count the same.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import arrayloss as al


def main() -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    features = np.column_stack([features, np.ones(len(features))])
    x, x_test, y, y_test = train_test_split(features, labels, random_state=0, stratify=labels)

    loss_and_gradient = al.value_and_grad(al.binary_cross_entropy_with_logits)
    sample_weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    weights = np.zeros(x.shape[1])
    for step in range(100):
        loss, by_logits = loss_and_gradient(x @ weights, y, sample_weight=sample_weight)
        weights -= 0.5 * (x.T @ by_logits)
        if step % 25 == 24:
            print(f"step {step + 1}: loss {loss:.4f}")

    accuracy = np.mean((x_test @ weights > 0) == y_test)
    print(f"accuracy on samples not seen: {accuracy:.3f}")
    assert accuracy > 0.95


if __name__ == "__main__":
    main()
