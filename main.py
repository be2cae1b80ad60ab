"""python main.py --config=configs/knn.py: see vtabjax/cli/__init__.py, and the README."""

from vtabjax.cli import run

if __name__ == "__main__":
    run()
