"""Networks built from gates: linear classifiers, stacked with a nonlinearity between them.

Score functions s = W·x, W2·max(0, W1·x), W3·max(0, W2·max(0, W1·x)) and deeper, with biases, batch
first. The backward pass is composed from the gates' hand-written VJPs; no automatic
differentiation is used anywhere in it, and it equals `jax.grad`.

    network = Network((64, 100, 10), activation=gates.get("relu"), regularisation=1e-4)
    result = train(network, images, labels, SGD(epochs=20))
    accuracy(network, result.params, test_images, test_labels)
    print(chain(network, result.params, images[0]))  # ∂s/∂x = W2·diag(1[h1 > 0])·W1
    print(without_nonlinearity(network, result.params, images[0]))  # rank and constancy

`python scripts/train.py` (extras `data`, `plot`) trains them on handwritten digits and on a spiral.
"""

from jacobians.networks.chain import Chain, Collapse, Link, chain, without_nonlinearity
from jacobians.networks.model import (
    LINEAR,
    Kept,
    Network,
    Params,
    backward,
    forward,
    initialise,
    load,
    loss,
    loss_and_gradients,
    save,
    scores,
)
from jacobians.networks.training import SGD, Trained, accuracy, spiral, train

__all__ = [
    "LINEAR",
    "SGD",
    "Chain",
    "Collapse",
    "Kept",
    "Link",
    "Network",
    "Params",
    "Trained",
    "accuracy",
    "backward",
    "chain",
    "forward",
    "initialise",
    "load",
    "loss",
    "loss_and_gradients",
    "save",
    "scores",
    "spiral",
    "train",
    "without_nonlinearity",
]
