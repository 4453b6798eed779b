"""Trains linear, 2-layer and 3-layer classifiers on handwritten digits, with the gates' backward.

    python scripts/train.py [--epochs N] [--seed N] [--out DIRECTORY] [--no-timing]

Prints the accuracy of each on the held-out third of scikit-learn's bundled digits (extra `data`),
the same for a two-dimensional spiral, where a linear classifier must fail, and the time of the
hand-written backward pass beside that of jax.grad of the same network. With the extra `plot`, draws
the loss curves and the first layers' templates: one per class for the linear classifier, many for a
network.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.cli.progress import progress
from jacobians.networks import (
    SGD,
    Network,
    Trained,
    accuracy,
    initialise,
    loss,
    loss_and_gradients,
    spiral,
    train,
)

DIGITS = {
    "linear": (64, 10),
    "2-layer": (64, 100, 10),
    "3-layer": (64, 100, 50, 10),
}
SPIRAL = {
    "linear": (2, 3),
    "2-layer": (2, 100, 3),
    "3-layer": (2, 50, 50, 3),
}

Split = tuple[Any, Any, Any, Any]
Results = dict[str, tuple[Network, Trained, float, float]]


def digits(seed: int = 0) -> Split:
    """The digits, 8×8 pixels from 0 to 1, two thirds to train on and one third held out.

    Args:
        seed: of the split.

    Returns:
        Training images and labels, held-out images and labels.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit('the digits come with scikit-learn: pip install "jacobians[data]"')
    data = load_digits()
    return split(np.asarray(data.data, np.float32) / 16, np.asarray(data.target, np.int32), seed)


def split(X: Any, labels: Any, seed: int) -> Split:
    """Two thirds to train on and one third held out, in a random order."""
    order = np.random.default_rng(seed).permutation(len(X))
    held = len(X) // 3
    test, rest = order[:held], order[held:]
    return X[rest], labels[rest], X[test], labels[test]


def sizes(data: Split) -> str:
    """How many examples are on either side of a split."""
    return f"{len(data[0])} to train on, {len(data[2])} held out"


def compare(networks: dict[str, tuple[int, ...]], data: Split, how: SGD, penalty: float) -> Results:
    """Trains networks on the same data.

    Args:
        networks: sizes by name.
        data: training and held-out examples.
        how: how to train each.
        penalty: λ of the L2 regularisation.

    Returns:
        By name: the network, what was trained, accuracy on the training and the held-out examples.
    """
    X, labels, test, test_labels = data
    results = {}
    for name, sizes in networks.items():
        network = Network(sizes, regularisation=penalty)
        trained = train(
            network, X, labels, how, progress=lambda epochs, name=name: progress(epochs, name)
        )
        results[name] = (
            network,
            trained,
            accuracy(network, trained.params, X, labels),
            accuracy(network, trained.params, test, test_labels),
        )
    return results


def table(title: str, results: Results) -> str:
    """The accuracies as text."""
    lines = [title, f"  {'classifier':<12}{'sizes':<22}{'loss':>8}{'training':>11}{'held out':>11}"]
    for name, (network, trained, seen, unseen) in results.items():
        sizes = " → ".join(map(str, network.sizes))
        lines.append(
            f"  {name:<12}{sizes:<22}{trained.losses[-1]:>8.4f}{seen:>10.1%} {unseen:>10.1%}"
        )
    return "\n".join(lines)


def timings(sizes: tuple[int, ...], batch: int, rounds: int = 200) -> tuple[float, float]:
    """Seconds for loss and gradients: by the gates' VJPs, and by `jax.grad`; both jitted.

    The two are run in turn, so that both meet the same machine, and the median is taken.
    """
    network = Network(sizes, regularisation=1e-4)
    params = initialise(network)
    generator = np.random.default_rng(0)
    X = jnp.asarray(generator.normal(size=(batch, sizes[0])), jnp.float32)
    labels = jnp.asarray(generator.integers(0, sizes[-1], batch), jnp.int32)
    by_hand = jax.jit(lambda p: loss_and_gradients(network, p, X, labels))
    by_jax = jax.jit(jax.value_and_grad(lambda p: loss(network, p, X, labels)))
    jax.block_until_ready((by_hand(params), by_jax(params)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for f, list_ in zip((by_hand, by_jax), times, strict=True):
            list_.append(_seconds(f, params))
    return float(np.median(times[0])), float(np.median(times[1]))


def _seconds(f: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.perf_counter() - start


def draw(results: Results, directory: pathlib.Path) -> list[pathlib.Path]:
    """Draws loss curves and first-layer templates.

    Args:
        results: what `compare` returned, for images of 8×8 pixels.
        directory: where the PNG files go.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    curves = Figure(figsize=(7, 4.2), layout="constrained")
    axes = curves.subplots()
    for name, (_, trained, _, unseen) in results.items():
        axes.semilogy(
            range(1, len(trained.losses) + 1), trained.losses, label=f"{name}, {unseen:.1%}"
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.set_title("Digits: loss, and accuracy on the held-out third")
    axes.grid(alpha=0.3)
    axes.legend()
    written = [directory / "loss.png"]
    curves.savefig(written[0], dpi=150)
    for name, (network, trained, _, _) in results.items():
        weights = np.asarray(trained.params["W1"])
        columns = 10
        rows = -(-len(weights) // columns)
        figure = Figure(figsize=(columns, rows + 0.9), layout="constrained")
        one = "one template per class" if network.depth == 1 else f"{len(weights)} templates"
        figure.suptitle(f"{name}: rows of W1, {one} (red adds, blue subtracts)")
        for k, ax in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
            ax.axis("off")
            if k < len(weights):
                limit = np.abs(weights[k]).max() or 1.0
                image = weights[k].reshape(8, 8)
                ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
                if network.depth == 1:
                    ax.set_title(str(k))
        path = directory / f"templates-{name}.png"
        figure.savefig(path, dpi=100)
        written.append(path)
    return written


def at_least(least: int) -> Callable[[str], int]:
    """A type for options: a whole number, not too small."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def main(argv: list[str] | None = None) -> int:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=at_least(1), default=60, help="passes over the digits")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="of the split, the weights, the order"
    )
    parser.add_argument("--out", type=pathlib.Path, help="draw loss curves and templates here")
    parser.add_argument("--no-timing", action="store_true", help="leave out the timing")
    options = parser.parse_args(argv)
    how = SGD(rate=0.1, momentum=0.9, batch=32, epochs=options.epochs, seed=options.seed)
    data = digits(options.seed)
    results = compare(DIGITS, data, how, penalty=1e-4)
    print(table(f"handwritten digits, 8×8 pixels: {sizes(data)}", results))
    for_spiral = SGD(rate=0.3, batch=32, epochs=150, seed=options.seed)
    arms = split(*spiral(150, seed=options.seed), options.seed)
    print()
    on_arms = compare(SPIRAL, arms, for_spiral, penalty=1e-4)
    print(table(f"spiral with three arms: {sizes(arms)}", on_arms))
    if not options.no_timing:
        print("\nloss and gradients of a batch, jitted, median of 200 runs in turn")
        print(f"  {'sizes':<26}{'batch':>6}{'gates’ VJPs':>14}{'jax.grad':>12}{'ratio':>8}")
        for widths, batch in (
            ((64, 100, 10), 64),
            ((64, 100, 50, 10), 64),
            ((784, 512, 512, 10), 256),
        ):
            hand, auto = timings(widths, batch)
            shown = " → ".join(map(str, widths))
            print(
                f"  {shown:<26}{batch:>6}{1e3 * hand:>11.3f} ms{1e3 * auto:>9.3f} ms"
                f"{hand / auto:>8.2f}"
            )
    if options.out is not None:
        try:
            files = draw(results, options.out)
        except ImportError:
            sys.exit('drawing needs matplotlib: pip install "jacobians[plot]"')
        print("\n" + "\n".join(f"wrote {path}" for path in files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
