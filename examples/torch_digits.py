"""A torch training loop: a small network on handwritten digits, with the loss of `arrayloss` where torch's would stand.

The labels of a tenth of the training set are wrong, which label smoothing bears, and the mean is taken in float32 of
logits in bfloat16, as in mixed precision.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import arrayloss as al


def main() -> None:
    torch.manual_seed(0)
    features, labels = load_digits(return_X_y=True)
    split = train_test_split(features / 16, labels, random_state=0, stratify=labels)
    x, x_test = (torch.tensor(a, dtype=torch.float32) for a in split[:2])
    t, t_test = (torch.tensor(a) for a in split[2:])
    t[::10] = torch.randint(10, t[::10].shape)

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(15):
        for batch in torch.randperm(len(x)).split(64):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x[batch])
            loss = al.cross_entropy(logits, t[batch], label_smoothing=0.1, dtype=torch.float32)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == t_test).float().mean().item()
    print(f"accuracy on digits not seen: {accuracy:.3f}")
    assert accuracy > 0.93


if __name__ == "__main__":
    main()
