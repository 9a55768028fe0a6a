"""The `kfp` command: stock, except that `kfp run submit FILE.py` works.

In stock kfp, `submit` is an old name of `create`, which takes no Python file; and its `run` group wants a server before
it can even print a help text. So this command is recognised before kfp is imported.
"""

from __future__ import annotations

import sys

# kfp's own global options that have a value; `submit` understands all of them.
_GLOBAL_OPTIONS = (
    "--endpoint",
    "-n",
    "--namespace",
    "--iap-client-id",
    "--other-client-id",
    "--other-client-secret",
    "--existing-token",
    "--output",
)


def main() -> None:
    """Runs our `submit` or hands over to kfp."""
    options, rest = _leading_options(sys.argv[1:])
    if rest[:2] == ["run", "submit"] and _is_ours(rest[2:]):
        from pipelines.cli.submit import submit

        submit.main([*options, *rest[2:]], prog_name="kfp run submit")
    from kfp.cli.__main__ import main as stock

    stock()


def _leading_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Splits off the global options that `submit` understands too."""
    options: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        options.append(option)
        if option in _GLOBAL_OPTIONS and rest:
            options.append(rest.pop(0))
    return options, rest


def _is_ours(arguments: list[str]) -> bool:
    asks_for_help = any(argument in ("-h", "--help") for argument in arguments)
    return asks_for_help or any(a.endswith(".py") and not a.startswith("-") for a in arguments)


if __name__ == "__main__":
    main()
