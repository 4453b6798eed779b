"""The `jacobians` command: reports of gates and functions, and checks of derivatives.

    jacobians report                                   the whole catalogue of gates
    jacobians explain jax.nn:softmax 'f32[4,8]'        the Jacobian of any importable function
    jacobians check mymodule:my_relu 'f32[16]'         its hand-written derivative
    jacobians graph jax.nn:log_softmax 'f32[3]'        its backward pass, node by node
    jacobians audit mymodule:loss 'f32[16,8]'          every custom rule called inside a function
    jacobians help audit                               what the documentation says about a topic

Exit status: 0 when all is right; 1 when a derivative is wrong (in an audit also when one could not
be checked) or the user's function raised; 2 for a mistake in the command line.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import __version__, gates
from jacobians.check.audit.audit import LIMIT, audit
from jacobians.check.audit.result import Audit
from jacobians.check.check import check_vjp
from jacobians.check.result import VJPCheck
from jacobians.cli.progress import progress
from jacobians.cli.specs import DISTRIBUTIONS, load_function, needs_x64, parse_spec
from jacobians.cli.topics import topic_text, topics_text
from jacobians.errors import JacobiansError, SpecError
from jacobians.graph.backprop import backprop
from jacobians.program import OWN_FOLDER
from jacobians.report.audit import audit_text
from jacobians.report.check import check_text
from jacobians.report.data import to_json
from jacobians.report.explanation import explanation_text
from jacobians.report.gate import catalogue_dicts, catalogue_texts
from jacobians.report.graph import graph_text
from jacobians.report.lines import Style, plain
from jacobians.structure.explain import explain

SPEC_HELP = f"""
SPEC describes one argument:
  f32[4,8]          a type in JAX's short notation, drawn from a normal distribution
  f32[8]:uniform    with a distribution: {", ".join(DISTRIBUTIONS)}
  i32[3]            integers from 0 to 7
  2  -0.5  true     a plain number or boolean, passed as it is
  @file.npy         an array from a file
Arrays of more than ten million elements stay shapes: the Jacobian is derived, not evaluated.

examples:
  jacobians explain jax.nn:softmax 'f32[4,8]'
  jacobians explain jax.numpy:cumsum 'f32[3,4]' 1
  jacobians check mymodule:my_relu 'f32[16]' --seed 3
  jacobians audit mymodule:loss 'f32[16,8]' 'i32[16]' --expect round_ste='straight-through'
"""


Run = Callable[[argparse.Namespace], int]


class UserFunctionError(Exception):
    """An exception of the user's own function, to be shown as theirs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        options = parser.parse_args(_protect_numbers(given))
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except UserFunctionError as error:
        print(error, file=sys.stderr)
        return 1
    except JacobiansError as error:
        print(f"jacobians: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jacobians: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader has gone (`| head`): stay quiet, also at interpreter shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    """The grammar of the command line; each command sets `run`, the function that does it."""
    common, function = _common_options(), argparse.ArgumentParser(add_help=False)
    function.add_argument("function", metavar="MODULE:FUNCTION", help="an importable function")
    function.add_argument("specs", metavar="SPEC", nargs="*", help="one for each argument")
    parser = argparse.ArgumentParser(
        prog="jacobians", description="See, prove and test the Jacobian of a JAX function."
    )
    parser.add_argument("--version", action="version", version=f"jacobians {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        parents=[common],
        help="structure report of the gates of the catalogue",
        description="Prints role, Jacobian, structure and checked VJP of gates.",
    )
    report.add_argument(
        "gates", metavar="GATE", nargs="*", help="names (default: the whole catalogue)"
    )
    report.set_defaults(run=_report)
    topics = commands.add_parser(
        "help",
        help="what the documentation says about a topic",
        description="Prints a topic of the documentation.",
        epilog=topics_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    topics.add_argument("topic", metavar="TOPIC", nargs="?", help="default: list the topics")
    topics.set_defaults(run=_help)
    for name, run, add_options, text in OF_FUNCTIONS:
        command = commands.add_parser(
            name,
            parents=[common, function],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=SPEC_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command)
        command.set_defaults(run=run)
    return parser


def _common_options() -> argparse.ArgumentParser:
    """The options of every command that prints a result."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    common.add_argument("--seed", type=_count, default=0, help="seed of random values (default 0)")
    common.add_argument(
        "--color",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="colour (needs rich; default: when the output is a terminal)",
    )
    return common


def _explain_options(command: argparse.ArgumentParser) -> None:
    _argnums_option(command)
    command.add_argument(
        "--points", type=_positive, default=6, help="points to observe at (default 6)"
    )


def _check_options(command: argparse.ArgumentParser) -> None:
    _argnums_option(command)
    _diagnose_option(command, "")
    command.add_argument(
        "--expect",
        type=_reason,
        metavar="REASON",
        help="the rule is meant to differ, and why, e.g. 'straight-through: rounding has "
        "derivative 0'; a difference is then no failure",
    )


def _graph_options(command: argparse.ArgumentParser) -> None:
    """Adds what is opened, what is folded, and the files to write."""
    _argnums_option(command)
    command.add_argument(
        "--expand",
        metavar="NAME",
        action="append",
        default=[],
        help="a call or loop to open: softmax, scan, step (repeatable); 'all' opens all",
    )
    command.add_argument(
        "--fold",
        metavar="NAME",
        action="append",
        default=[],
        help="a plain Python function whose calls become one node each (repeatable)",
    )
    command.add_argument("--svg", metavar="FILE", help="also draw the graph to an SVG file")
    command.add_argument("--dot", metavar="FILE", help="also write it for Graphviz")


def _audit_options(command: argparse.ArgumentParser) -> None:
    """Adds how many calls are compared, whose rules, and which may differ."""
    command.add_argument(
        "--limit",
        type=_positive,
        default=LIMIT,
        help=f"calls of each rule that are compared entry by entry (default {LIMIT})",
    )
    command.add_argument("--library", action="store_true", help="check the rules of JAX itself too")
    command.add_argument(
        "--expect",
        type=_expectation,
        action="append",
        default=[],
        metavar="NAME=REASON",
        help="a rule that is meant to differ, and why; may be repeated",
    )
    _diagnose_option(command, "; at most three times as long for all rules")


def _argnums_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--argnums", type=_numbers, help="arguments to differentiate, e.g. 0 or 0,2 (default: all)"
    )


def _diagnose_option(command: argparse.ArgumentParser, of_several: str) -> None:
    command.add_argument(
        "--diagnose",
        type=_seconds,
        default=True,
        metavar="SECONDS",
        help="CPU time to look for the cause of a mistake (default 10; 0: do not look)"
        + of_several,
    )


def _expectation(text: str) -> tuple[str, str]:
    name, _, reason = (part.strip() for part in text.partition("="))
    if not name or not reason:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=REASON")
    return name, reason


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("give the reason for the difference in words")
    return text.strip()


def _count(text: str) -> int:
    value = _integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative; give 0 or a positive number")
    return value


def _positive(text: str) -> int:
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is no number of seconds")
    return value


def _integer(text: str) -> int:
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_integer(part) for part in text.split(","))


def _protect_numbers(given: list[str]) -> list[str]:
    """Puts a space before plain negative numbers, which argparse would take for options."""
    result = []
    for text in given:
        try:
            float(text)
        except ValueError:
            result.append(text)
        else:
            result.append(f" {text}" if text.startswith("-") else text)
    return result


def _help(options: argparse.Namespace) -> int:
    print(topics_text() if options.topic is None else topic_text(options.topic))
    return 0


def _report(options: argparse.Namespace) -> int:
    chosen = [gates.get(name) for name in options.gates] or list(gates.catalogue.values())
    if options.json:
        dictionaries = catalogue_dicts(progress(chosen, "gates"), options.seed)
        print(to_json(dictionaries))
        return 0 if all(d["check"]["right"] for d in dictionaries) else 1
    style = _style(options.color)
    right = True
    for text, ok in catalogue_texts(
        progress(chosen, "gates"), options.seed, style, not options.gates
    ):
        print(text + "\n", flush=True)
        right = right and ok
    return 0 if right else 1


def _explain(options: argparse.Namespace) -> int:
    with _call(options) as (function, arguments):
        explanation = _users(
            explain,
            function,
            *arguments,
            argnums=options.argnums,
            points=options.points,
            seed=options.seed,
        )
    if options.json:
        print(to_json(explanation.to_dict()))
    else:
        print(explanation_text(explanation, _style(options.color)))
    return 0


def _check(options: argparse.Namespace) -> int:
    with _call(options) as (function, arguments):
        check: VJPCheck = _users(
            check_vjp,
            function,
            *arguments,
            argnums=options.argnums,
            expect=options.expect,
            diagnose=options.diagnose,
        )
    if options.json:
        print(to_json(check.to_dict()))
    else:
        print(check_text(check, _style(options.color)))
    return 0 if check else 1


def _graph(options: argparse.Namespace) -> int:
    """Prints the graph of a call, and writes it to the files asked for."""
    expand: bool | list[str] = True if "all" in options.expand else options.expand
    with _call(options) as (function, arguments):
        graph = _users(
            backprop,
            function,
            *arguments,
            argnums=options.argnums,
            expand=expand,
            fold=options.fold,
        )
        for path, write in ((options.svg, graph.to_svg), (options.dot, graph.to_dot)):
            if path is not None:
                _write_file(path, write())
        if options.json:
            print(to_json(graph.to_dict()))
        else:
            print(graph_text(graph, _style(options.color)))
    return 0


def _write_file(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpecError(f"cannot write {path!r}: {error.strerror}") from None


def _audit(options: argparse.Namespace) -> int:
    """Prints the audit of a call; 1 where a rule is wrong or could not be checked."""
    with _call(options) as (function, arguments):
        found: Audit = _users(
            audit,
            function,
            *arguments,
            limit=options.limit,
            library=options.library,
            expect=dict(options.expect),
            diagnose=options.diagnose,
            progress=lambda rules: progress(rules, "rules"),
        )
    if options.json:
        print(to_json(found.to_dict()))
    else:
        print(audit_text(found, _style(options.color)))
    return 0 if found else 1


# the commands that take a function: name, what runs it, what adds its options, what it shows
OF_FUNCTIONS: tuple[tuple[str, Run, Callable[[argparse.ArgumentParser], None], str], ...] = (
    ("explain", _explain, _explain_options, "the Jacobian blocks of any importable function"),
    ("check", _check, _check_options, "a hand-written derivative against the explicit Jacobian"),
    ("graph", _graph, _graph_options, "the computational graph with every gradient, node by node"),
    (
        "audit",
        _audit,
        _audit_options,
        "every custom rule called in a function, on the values it receives",
    ),
)


@contextmanager
def _call(options: argparse.Namespace) -> Iterator[tuple[Callable[..., Any], list[Any]]]:
    """The function and its arguments, in double precision if a SPEC asks for it."""
    with jax.enable_x64(needs_x64(options.specs) or jnp.result_type(float) == jnp.float64):
        arguments = [parse_spec(text, options.seed, k) for k, text in enumerate(options.specs)]
        yield _users(load_function, options.function), arguments


def _users(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls something that runs the user's code; what that raises is shown as theirs."""
    try:
        return call(*args, **options)
    except (JacobiansError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise UserFunctionError(_as_theirs(error)) from error


def _as_theirs(error: BaseException) -> str:
    """An exception as one line with the place in the user's code that it came from."""
    message = (str(error).strip() or "no message").splitlines()[0]
    libraries = f"{os.sep}site-packages{os.sep}", f"{os.sep}lib{os.sep}python"
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((OWN_FOLDER, "<"))
        and not any(part in frame.filename for part in libraries)
    ]
    place = ""
    if theirs:
        last = theirs[-1]
        place = f" (in {last.name}, {os.path.relpath(last.filename)}:{last.lineno})"
    return f"jacobians: your function raised {type(error).__name__}: {message}{place}"


def _style(color: bool | None) -> Style:
    """Colours from rich where it is installed and wanted, else none."""
    if color is False or (color is None and not sys.stdout.isatty()):
        return plain
    try:
        from rich.style import Style as RichStyle
    except ImportError:
        if color:
            print('jacobians: colour needs rich: pip install "jacobians[cli]"', file=sys.stderr)
        return plain
    styles = {
        "title": RichStyle(bold=True),
        "block": RichStyle(bold=True, color="cyan"),
        "label": RichStyle(dim=True),
        "good": RichStyle(color="green"),
        "bad": RichStyle(color="red", bold=True),
        "note": RichStyle(color="yellow"),
    }

    def paint(text: str, role: str) -> str:
        style = styles.get(role)
        return style.render(text) if style is not None else text

    return paint
