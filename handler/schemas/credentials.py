"""Per-request credentials: which of them goes with which URL. They are never echoed, logged or sent on."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, SecretStr

from handler.errors import BadRequest
from handler.urls import MAX_URL_LENGTH


class _Auth(BaseModel):
    # Not strict: a SecretStr is made of the caller's text.
    model_config = ConfigDict(frozen=True)


class BearerAuth(_Auth):
    type: Literal["bearer"]
    token: SecretStr = Field(description="Bearer token for the Authorization header.")


class BasicAuth(_Auth):
    type: Literal["basic"]
    username: str
    password: SecretStr


class HeaderAuth(_Auth):
    type: Literal["header"]
    header_name: str = Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", description="Name of a header of its own.")
    header_value: SecretStr


class QueryAuth(_Auth):
    type: Literal["query"]
    query_param: str = Field(min_length=1, description="Name of a query parameter, such as sig.")
    query_value: SecretStr


class S3Auth(_Auth):
    type: Literal["s3"]
    access_key_id: str
    secret_access_key: SecretStr
    session_token: SecretStr | None = Field(None, description="Session token of temporary credentials.")
    endpoint: str | None = Field(None, description="Endpoint of an S3-compatible store.")
    region: str | None = Field(None, description="AWS region. Default: AWS_REGION.")


Auth = Annotated[BearerAuth | BasicAuth | HeaderAuth | QueryAuth | S3Auth, Discriminator("type")]


class Credential(BaseModel):
    """What to show at URLs of one kind."""

    model_config = ConfigDict(frozen=True)

    url_pattern: str = Field(
        min_length=1,
        max_length=2048,
        description="A URL with wildcards: * stands for anything but a slash, ** for anything, ? for one character.",
    )
    auth: Auth


def find_auth(credentials: Sequence[Credential], url: str) -> Auth | None:
    """The auth of the first credential whose pattern matches the whole URL. Raises BadRequest for an endless one."""
    if credentials and len(url) > MAX_URL_LENGTH:
        raise BadRequest(f"A URL has more than {MAX_URL_LENGTH} characters.")
    return next((one.auth for one in credentials if matches_pattern(one.url_pattern, url)), None)


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a pattern with *, ** and ? matches a whole text.

    All places of the pattern that the text so far can have reached are followed at once, as the bits of a number: the time
    grows with the text alone, where a regular expression with many stars could take for ever.
    """
    tokens = [token if token.count("*") < 2 else "**" for token in re.findall(r"\*+|.", pattern, re.DOTALL)]
    at = {token: sum(1 << place for place, one in enumerate(tokens) if one == token) for token in set(tokens)}
    deep, stars, one = at.get("**", 0), at.get("*", 0) | at.get("**", 0), at.get("?", 0)
    here = 1 | (1 & stars) << 1
    for char in text:
        in_segment = char != "/"
        stay = here & (stars if in_segment else deep)
        move = here & ((0 if char in "*?" else at.get(char, 0)) | (one if in_segment else 0))
        here = stay | move << 1
        here |= (here & stars) << 1  # a star may stand for nothing
        if not here:
            return False
    return bool(here >> len(tokens) & 1)
