"""`python -m p2pd`, and the console script `p2pd`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from p2pd.cli.app import app

    app(prog_name="p2pd")


if __name__ == "__main__":
    main()
