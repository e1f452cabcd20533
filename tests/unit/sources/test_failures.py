"""What TensorStore says, by the error it becomes and the advice it carries."""

import pytest

from windowloader.errors import (
    CorruptDataError,
    CredentialsError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from windowloader.sources.failures import Asked, explain

ASKED = Asked("s3://b/a.zarr", (0, 10), lambda chunk: f"rows of {chunk}")
CASES = [
    ("NOT_FOUND: chunk {3,0} stored at \"c/3/0\" is missing", CorruptDataError,
     r"chunk 3, 0; rows of \(3, 0\).*fill_missing"),
    ("NOT_FOUND: NoSuchBucket [http_response_code='404']", SourceNotFoundError, "bucket"),
    ("NOT_FOUND: Metadata at \"nope/zarr.json\" does not exist", SourceNotFoundError, "nothing is there"),
    ("PERMISSION_DENIED: SignatureDoesNotMatch", CredentialsError, "are wrong"),
    ("PERMISSION_DENIED: ExpiredToken", CredentialsError, "have expired"),
    ("PERMISSION_DENIED: AccessDenied", CredentialsError, "'anon': True"),
    ("INTERNAL: Failed to get credentials from provider", CredentialsError, "absent"),
    ("INVALID_ARGUMENT: PermanentRedirect, the bucket is in eu-west-1", CredentialsError, "region"),
    ("PERMISSION_DENIED: RequestTimeTooSkewed", CredentialsError, "clock"),
    ("DATA_LOSS: Digest mismatch, stored digest is 1 [source='c/2/1']", CorruptDataError, "not what was written"),
    ("FAILED_PRECONDITION: Blosc error", CorruptDataError, "not what was written"),
    ("FAILED_PRECONDITION: Not enough data; expected at least 4 bytes", CorruptDataError, "not what was written"),
    ("ABORTED: All 2 retry attempts failed: CURL error Operation too slow", SourceTimeoutError, "did not answer"),
    ("ABORTED: All 2 retry attempts failed: Could not connect to server", SourceError, "cannot be reached"),
    ("ABORTED: All 2 retry attempts failed: UNAVAILABLE [http_response_code='503']", SourceError, "retries"),
    ("FAILED_PRECONDITION: expected \"shape\" mismatch", SourceChangedError, "changed"),
    ("INVALID_ARGUMENT: \"codecs\" is not supported", SourceFormatError, "codec"),
    ("something quite new", SourceError, "something quite new"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "advice"), CASES)
def test_messages(text, kind, advice):
    with pytest.raises(kind, match=advice) as caught:
        raise explain(ValueError(text), ASKED)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("'s3://b/a.zarr', rows 0–9: ")
    assert "Storage said: " in str(caught.value)


def test_errors_of_this_package_and_of_python():
    mine = CorruptDataError("x")
    assert explain(mine, ASKED) is mine
    assert isinstance(explain(FileNotFoundError("x"), ASKED), SourceNotFoundError)
    assert isinstance(explain(PermissionError("x"), ASKED), CredentialsError)


def test_a_chunk_of_a_number_that_is_too_long_is_named_all_the_same():
    error = explain(ValueError(f'DATA_LOSS: "c/{"9" * 5000}"'), Asked("a.zarr", (0, 9)))
    assert isinstance(error, CorruptDataError)
