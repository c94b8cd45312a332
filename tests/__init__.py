"""The environment of the tests: offline but for a loopback Hub. This module is imported before any of the clients."""

import atexit
import os
import shutil
import tempfile

from .fake_hub import FakeHub

# The clients read their settings while they are imported, so the Hub's address must be known before.
HUB = FakeHub().start()
HF_HOME = tempfile.mkdtemp(prefix="vlm2rec-tests-")
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
os.environ.update(HF_ENDPOINT=HUB.endpoint, HF_HOME=HF_HOME, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_TOKEN_PATH"):
    os.environ.pop(name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
