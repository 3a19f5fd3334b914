"""The region of the bucket that a job brings, which its endpoint names or does not."""

import pytest

from handler import Settings
from handler.storage import runpod_bucket

SETTINGS = Settings(allow_private_urls=True)  # so that no name is looked up


def region(endpoint: str) -> str | None:
    given = {"accessId": "key", "accessSecret": "s3cr3t", "bucketName": "bkt", "endpointUrl": endpoint}
    found = runpod_bucket.choose_bucket({"s3Config": given}, "job-1", SETTINGS)
    assert found is not None
    return found.auth.region


@pytest.mark.parametrize(
    "host",
    [
        "s3.eu-west-1.amazonaws.com",
        "s3.us-west-004.backblazeb2.com",
        "s3.eu-central-1.wasabisys.com",
        "s3.fr-par.scw.cloud",
        "s3.gra.io.cloud.ovh.net",
        "nyc3.digitaloceanspaces.com",
        "account.r2.cloudflarestorage.com",
        "127.0.0.1:9000",
    ],
)
def test_a_region_is_found_where_runpod_finds_it(host: str) -> None:
    """RunPod looks for it behind the bucket's name only; here it may be without."""
    from runpod.serverless.utils.rp_upload import extract_region_from_url

    assert region(f"https://{host}") == region(f"https://bkt.{host}") == extract_region_from_url(f"https://bkt.{host}")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("s3.amazonaws.com", None),
        ("s3.wasabisys.com", None),
        ("s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1"),
    ],
)
def test_what_is_no_region_is_not_taken_for_one(host: str, expected: str | None) -> None:
    """Requests that are signed for the region "amazonaws" are refused. Without one it is AWS_REGION's."""
    assert region(f"https://{host}") == region(f"https://bkt.{host}") == expected
