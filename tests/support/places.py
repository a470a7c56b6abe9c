"""Where things are, for tests that may move."""

from pathlib import Path

import basiq_async

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PACKAGE = f"{Path(basiq_async.__file__).parent}/"
"""What the file names of the package's own frames begin with. A clone may be in a folder of the same name."""
