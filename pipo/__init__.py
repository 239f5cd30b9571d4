"""Policy improvement reinforcement learning: closed-loop RL for language models."""

import os

# Read once, when torch and the tokenizers are imported, which this package does later. OpenMP's threads would
# spin while they wait for each other, and on a machine with other work that takes many times what it saves.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
