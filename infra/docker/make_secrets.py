"""Make the secrets of infra/compose.yaml, one file each, where they are missing:

python infra/docker/make_secrets.py infra/secrets

The folder is closed to others; the files in it are readable, because each container reads them as its own user. A
webhook's two files are made empty: fill both, or neither.
"""

import json
import secrets
import sys
from pathlib import Path

RANDOM = (
    "AWS_SECRET_ACCESS_KEY", "MLFLOW_DATABASE_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_SERVER_DATABASE_PASSWORD", "RAY_AUTH_TOKEN",
)  # fmt: skip
EMPTY = ("FROSTLINE_WEBHOOK_URL", "FROSTLINE_WEBHOOK_SECRET")


def make_secrets(folder: Path) -> list[str]:
    """Names of the files that were made; what is there stays as it is, except `s3.json`, which follows the S3 keys."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = {name: secrets.token_hex(32) for name in RANDOM} | dict.fromkeys(EMPTY, "")
    wanted["AWS_ACCESS_KEY_ID"] = secrets.token_hex(10)
    wanted["PREFECT_API_AUTH_STRING"] = f"frostline:{secrets.token_hex(32)}"
    missing = [name for name in sorted(wanted) if not (folder / name).exists()]
    for name in missing:
        (folder / name).write_text(wanted[name])
        (folder / name).chmod(0o644)  # whatever the umask is
    keys = {
        "accessKey": (folder / "AWS_ACCESS_KEY_ID").read_text().strip(),
        "secretKey": (folder / "AWS_SECRET_ACCESS_KEY").read_text().strip(),
    }
    identity = {"name": "frostline", "credentials": [keys], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}, indent=2))
    (folder / "s3.json").chmod(0o644)
    return missing


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print(f"made: {', '.join(make_secrets(Path(sys.argv[1]))) or 'nothing was missing'}")
