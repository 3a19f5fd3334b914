"""`credentials` of a request, and the URLs that they are for. They are never echoed or logged."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, SecretStr

from handler.errors import BadRequest
from handler.urls import MAX_URL_LENGTH


class _Auth(BaseModel):
    # Not strict, so that a text becomes a SecretStr.
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
    header_name: str = Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", description="Name of the header.")
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
    """Credentials for the URLs that match a pattern."""

    model_config = ConfigDict(frozen=True)

    url_pattern: str = Field(
        min_length=1,
        max_length=2048,
        description="A URL with wildcards: * matches anything but a slash, ** anything, ? one character.",
    )
    auth: Auth


def find_auth(credentials: Sequence[Credential], url: str) -> Auth | None:
    """The auth of the first credential whose pattern matches the whole URL. Raises BadRequest if the URL is too long."""
    if credentials and len(url) > MAX_URL_LENGTH:
        raise BadRequest(f"A URL has more than {MAX_URL_LENGTH} characters.")
    return next((one.auth for one in credentials if matches_pattern(one.url_pattern, url)), None)


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a pattern with *, ** and ? matches a whole text.

    Runs in linear time, where a regular expression with many stars can take exponential time. It simulates the pattern's
    automaton: a bit of `reached` is set if the text so far can reach that place of the pattern.
    """
    tokens = [token if token.count("*") < 2 else "**" for token in re.findall(r"\*+|.", pattern, re.DOTALL)]
    masks = {token: sum(1 << place for place, one in enumerate(tokens) if one == token) for token in set(tokens)}
    deep, stars, single = masks.get("**", 0), masks.get("*", 0) | masks.get("**", 0), masks.get("?", 0)
    reached = 1 | (1 & stars) << 1
    for char in text:
        in_segment = char != "/"
        literal = 0 if char in "*?" else masks.get(char, 0)
        stay = reached & (stars if in_segment else deep)
        move = reached & (literal | (single if in_segment else 0))
        reached = stay | move << 1
        reached |= (reached & stars) << 1  # a star may match nothing
        if not reached:
            return False
    return bool(reached >> len(tokens) & 1)
