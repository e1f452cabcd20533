"""Who asks a bucket: keys, profiles and environment, as boto3 finds them, said in TensorStore's words.

In: ``storage_options`` and the ``AWS_*`` variables. Out: a specification of credentials. Never asks anybody.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any

from windowloader.errors import SourceFormatError

__all__ = ["aws_credentials"]


def aws_credentials(options: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Choose the credentials for a bucket.

    Parameters
    ----------
    options : dict
        ``storage_options``.

    Returns
    -------
    tuple of (dict, str)
        What TensorStore calls ``aws_credentials``, if anything, and the text of a file of credentials.

    Raises
    ------
    SourceFormatError
        For half a key.
    """
    key, secret, token = (options.get(name) for name in ("key", "secret", "token"))
    if bool(key) != bool(secret):
        raise SourceFormatError(
            f"storage_options has {'key' if key else 'secret'!r} without {'secret' if key else 'key'!r}; "
            "give both, or anon=True for a public bucket."
        )
    if options.get("anon"):
        return {"type": "anonymous"}, ""
    if key:
        lines = ["[windowloader]", f"aws_access_key_id = {key}", f"aws_secret_access_key = {secret}"]
        return {}, "\n".join(lines + ([f"aws_session_token = {token}"] if token else [])) + "\n"
    if profile := options.get("profile"):
        return _profile(profile), ""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}, ""
    if profile := os.environ.get("AWS_PROFILE"):
        return _profile(profile), ""
    own = _profile("default")
    if not os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and _has_key(own["credentials_file"]):
        return own, ""
    return {"type": "default"}, ""


def _profile(name: str) -> dict[str, str]:
    """Say where profiles are: TensorStore finds neither file by itself, and takes none unless both can be opened."""
    found = {"type": "profile", "profile": name}
    for kind, variable in (("credentials", "AWS_SHARED_CREDENTIALS_FILE"), ("config", "AWS_CONFIG_FILE")):
        path = Path(os.environ.get(variable) or f"~/.aws/{kind}").expanduser()
        found[f"{kind}_file"] = str(path) if path.is_file() else os.devnull
    return found


def _has_key(path: str) -> bool:
    """Whether a file of credentials has a default key."""
    profiles = configparser.ConfigParser(default_section="", interpolation=None, strict=False)
    try:
        profiles.read(path, encoding="utf-8")
    except (OSError, ValueError, configparser.Error):
        return False
    return profiles.has_option("default", "aws_access_key_id")
