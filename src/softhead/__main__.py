"""``python -m softhead`` and the ``softhead`` command."""

import sys


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        from softhead.app.cli import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "pyarrow"):
            raise
        sys.exit(f"softhead: the command line needs the package {error.name}: pip install 'softhead[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
