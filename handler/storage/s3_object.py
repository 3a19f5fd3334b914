"""Downloads an object of a bucket into a file, and resumes where an earlier download broke off."""

import os
from typing import Any, BinaryIO

import requests

from handler.storage.transfer import Limits, Version, continues_at, copy_body, empty


class S3Object:
    """One object, fetched with a client of boto3. Raises what the client raises."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client, self._where = client, {"Bucket": bucket, "Key": key}

    def download_to(self, file: BinaryIO, version: Version | None, limits: Limits) -> None:
        held = file.seek(0, os.SEEK_END)
        known = version.known() if version and held else None
        if known and self._resume(file, held, known, limits):
            return
        answer = self._client.get_object(**self._where)
        empty(file)
        if version:
            version.keep(answer.get("ETag"))
        self._copy(answer, file, limits)

    def _resume(self, file: BinaryIO, held: int, known: str, limits: Limits) -> bool:
        """Fetch what comes behind the first bytes. False: the object is not the same any more."""
        head = self._client.head_object(**self._where)
        if head.get("ETag") != known or held >= head["ContentLength"]:
            return bool(head.get("ETag") == known and held == head["ContentLength"])
        try:
            answer = self._client.get_object(**self._where, Range=f"bytes={held}-", IfMatch=known)
        except self._client.exceptions.ClientError as exc:
            if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == requests.codes.precondition_failed:
                return False  # it has just been replaced
            raise
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        # Not every store supports IfMatch.
        if answer.get("ETag", known) != known or not continues_at(held, status, answer.get("ContentRange")):
            answer["Body"].close()
            return False
        self._copy(answer, file, limits)
        return True

    def _copy(self, answer: dict[str, Any], file: BinaryIO, limits: Limits) -> None:
        # Entering the body gives urllib3's stream: botocore's own read waits until all the bytes are there, however slowly they
        # come.
        with answer["Body"] as stream:
            copy_body(stream, file, limits)
