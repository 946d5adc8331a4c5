"""``python -m reason``: the command line."""

from reason.cli.main import app

if __name__ == "__main__":
    app()
