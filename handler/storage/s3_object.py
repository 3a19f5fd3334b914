"""An object of a bucket on its way into a file, from where that was left."""

import os
from typing import Any, BinaryIO

import requests

from handler.storage.transfer import Limits, Version, continues_at, copy_body, empty


class S3Object:
    """One object, asked for by a client of boto3's. Raises what that raises."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client, self._where = client, {"Bucket": bucket, "Key": key}

    def download_to(self, file: BinaryIO, version: Version | None, limits: Limits) -> None:
        held = file.seek(0, os.SEEK_END)
        known = version.known() if version and held else None
        if known and self._continued(file, held, known, limits):
            return
        answer = self._client.get_object(**self._where)
        empty(file)
        if version:
            version.keep(answer.get("ETag"))
        self._copy(answer, file, limits)

    def _continued(self, file: BinaryIO, held: int, known: str, limits: Limits) -> bool:
        """Fetch what is behind the first bytes. False: the object is another one than the one that was begun."""
        head = self._client.head_object(**self._where)
        if head.get("ETag") != known or held >= head["ContentLength"]:
            return bool(head.get("ETag") == known and held == head["ContentLength"])
        try:
            answer = self._client.get_object(**self._where, Range=f"bytes={held}-", IfMatch=known)
        except self._client.exceptions.ClientError as exc:
            if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == requests.codes.precondition_failed:
                return False  # it became another one just now
            raise
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        # Not every store knows IfMatch.
        if answer.get("ETag", known) != known or not continues_at(held, status, answer.get("ContentRange")):
            answer["Body"].close()
            return False
        self._copy(answer, file, limits)
        return True

    def _copy(self, answer: dict[str, Any], file: BinaryIO, limits: Limits) -> None:
        # What the body gives here is urllib3's stream: botocore's own read waits for as many bytes as it is asked for,
        # however slowly they come.
        with answer["Body"] as stream:
            copy_body(stream, file, limits)
