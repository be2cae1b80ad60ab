"""The whole experiment: stages of ordinary sweeps from many candidates to a ranked few. `run.run` is the way in.

``stages`` and ``settings`` read the config, ``keep`` decides who goes on, ``verdict`` who has won; ``record`` writes
down what was decided, ``winner`` and ``card`` make the model that one takes home.
"""
