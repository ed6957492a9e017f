"""An Optax loop on JAX: a small network on handwritten digits, focal loss, each step compiled."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import arrayloss as al


def network(weights, x):
    (a, b), (c, d) = weights
    return jax.nn.relu(x @ a + b) @ c + d


def main() -> None:
    features, labels = load_digits(return_X_y=True)
    split = train_test_split(features / 16, labels, random_state=0, stratify=labels)
    x, x_test, t, t_test = (jnp.asarray(a) for a in split)
    keys = jax.random.split(jax.random.key(0), 2)
    initial = jax.nn.initializers.he_normal()
    weights = [(initial(k, s), jnp.zeros(s[1])) for k, s in zip(keys, [(64, 64), (64, 10)], strict=True)]

    optimizer = optax.adam(1e-2)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, x, t):
        loss, gradient = jax.value_and_grad(lambda w: al.softmax_focal_loss(network(w, x), t))(weights)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state, loss

    for epoch in range(100):
        weights, state, loss = step(weights, state, x, t)
        if epoch % 25 == 24:
            print(f"epoch {epoch + 1}: loss {loss:.4f}")

    accuracy = float((network(weights, x_test).argmax(1) == t_test).mean())
    print(f"accuracy on digits not seen: {accuracy:.3f}")
    assert accuracy > 0.95


if __name__ == "__main__":
    main()
