"""A small language model whose vocabulary is shared out over 8 devices: its loss curve is that of one device.

A transformer of two layers learns the license of this project, byte by byte. The last layer's weight has 32 of the 256
bytes on each device, and so have the logits, which are never gathered. The devices are virtual: parts of one CPU.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import arrayloss as al

BYTES, WIDTH, HEADS, LENGTH, BATCH, STEPS, RATE = 256, 32, 2, 32, 16, 100, 0.2

jax.config.update("jax_num_cpu_devices", 8)


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]), dtype=jnp.float32)

    layers = [
        {
            "qkv": matrix(3, HEADS, WIDTH // HEADS, WIDTH),
            "out": matrix(WIDTH, WIDTH),
            "up": matrix(4 * WIDTH, WIDTH),
            "down": matrix(WIDTH, 4 * WIDTH),
        }
        for _ in range(2)
    ]
    return {
        "bytes": matrix(BYTES, WIDTH),
        "places": matrix(LENGTH, WIDTH),
        "layers": layers,
        "head": matrix(BYTES, WIDTH),
    }


def normalized(x: Any) -> Any:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def logits(p: dict[str, Any], text: Any) -> Any:
    """(batch, length, bytes), from (batch, length)."""
    x = p["bytes"][text] + p["places"]
    later = jnp.triu(jnp.ones((LENGTH, LENGTH), dtype=bool), 1)
    for layer in p["layers"]:
        q, k, v = jnp.einsum("nhdw,bsw->nbhsd", layer["qkv"], normalized(x))
        scores = jnp.where(later, -jnp.inf, jnp.einsum("bhsd,bhtd->bhst", q, k) / np.sqrt(q.shape[-1]))
        mixed = jnp.einsum("bhst,bhtd->bshd", al.softmax(scores), v)
        x = x + mixed.reshape(x.shape) @ layer["out"].T
        x = x + jax.nn.gelu(normalized(x) @ layer["up"].T) @ layer["down"].T
    return normalized(x) @ p["head"].T


@jax.jit
def step(p: dict[str, Any], text: Any) -> tuple[dict[str, Any], Any]:
    loss, slopes = jax.value_and_grad(lambda p: al.cross_entropy(logits(p, text[:, :-1]), text[:, 1:]))(p)
    return jax.tree.map(lambda a, g: a - RATE * g, p, slopes), loss


def train(p: dict[str, Any], batches: list[Any]) -> list[float]:
    losses = []
    for batch in batches:
        p, loss = step(p, batch)
        losses.append(float(loss))
    return losses


def main() -> None:
    text = np.frombuffer((Path(__file__).parents[1] / "LICENSE").read_bytes(), dtype=np.uint8).astype(np.int32)
    rng = np.random.default_rng(1)
    starts = rng.integers(0, len(text) - LENGTH - 1, (STEPS, BATCH))
    batches = [text[first[:, None] + np.arange(LENGTH + 1)] for first in starts]
    p = parameters()

    mesh = Mesh(np.array(jax.devices()), ("vocabulary",))
    everywhere, by_vocabulary = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("vocabulary"))
    placed = jax.device_put(p, {**jax.tree.map(lambda _: everywhere, p), "head": by_vocabulary})

    one, shared = train(p, batches), train(placed, [jax.device_put(b, everywhere) for b in batches])
    apart = max(abs(a / b - 1) for a, b in zip(shared, one, strict=True))
    program = step.lower(placed, jax.device_put(batches[0], everywhere)).compile().as_text()
    sent = Counter(re.findall(r" (all-gather|all-reduce|collective-permute|all-to-all)(?:-start)?\(", program))
    for at in range(0, STEPS + 1, 20):
        at = min(at, STEPS - 1)
        print(f"step {at:3}: loss {one[at]:.6f} on one device, {shared[at]:.6f} on {mesh.size}")
    print(f"at most {apart:.1e} apart, in parts of the loss; each step sends {dict(sent)}")
    assert one[-1] < one[0] / 2
    assert apart < 1e-4
    assert set(sent) == {"all-reduce"}


if __name__ == "__main__":
    main()
