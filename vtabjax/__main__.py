"""python -m vtabjax: the command `vtabjax`."""

from vtabjax.cli import run

if __name__ == "__main__":
    run()
