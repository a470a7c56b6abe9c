"""Write the bill of materials that the wheel has in ``.dist-info/sboms``: CycloneDX, with what every install brings."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".ci" / "basiq_async.cdx.json"


def render() -> str:
    """Return the text of the file, for the version and the dependencies of today."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.search(r'__version__ = "(.*)"', (ROOT / "basiq_async" / "__init__.py").read_text())
    assert found is not None
    own = f"pkg:pypi/{project['name']}@{found[1]}"
    needed = [re.split(r"(?=[<>=!~])", each, maxsplit=1) for each in project["dependencies"]]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": project["name"],
                "version": found[1],
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{name}",
                "name": name,
                "purl": f"pkg:pypi/{name}",
                "properties": [{"name": "python:version-range", "value": versions}],
            }
            for name, versions in needed
        ],
        "dependencies": [{"ref": own, "dependsOn": [f"pkg:pypi/{name}" for name, _ in needed]}],
    }
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(render())
