"""Plain programs, one for each question. See benchmarks/README.md."""

import os
import sys

if os.environ.get("BENCH_WITHOUT_ORJSON"):
    sys.modules["orjson"] = None  # type: ignore[assignment]  # as where it is not installed
