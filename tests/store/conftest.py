"""The toy subject by its path: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

if "toy_subject" not in sys.modules:
    spec = importlib.util.spec_from_file_location("toy_subject", Path(__file__).with_name("toy_subject.py"))
    sys.modules["toy_subject"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["toy_subject"])
