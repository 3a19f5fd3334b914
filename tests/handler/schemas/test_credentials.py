import pytest

from handler.schemas import matches_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "good"),
    [
        ("https://a.com/x", "https://a.com/x", True),
        ("https://a.com/x", "https://a.com/xy", False),
        ("https://a.com/*", "https://a.com/x.bin", True),
        ("https://a.com/*", "https://a.com/", True),
        ("https://a.com/*", "https://a.com/d/x.bin", False),
        ("https://a.com/**", "https://a.com/d/x.bin", True),
        ("https://a.com/***", "https://a.com/d/x.bin", True),
        ("https://*.a.com/**/x", "https://b.a.com/c/d/x", True),
        ("https://*.a.com/**", "https://evil.com/.a.com/", False),
        ("https://a.com/?.bin", "https://a.com/x.bin", True),
        ("https://a.com/?.bin", "https://a.com/.bin", False),
        ("https://a.com/a?b", "https://a.com/a/b", False),
        ("**", "anything/at all", True),
        ("**", "", True),
        ("*", "a/b", False),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "aXbY", False),
        ("a.c", "abc", False),
        ("s3://bucket/**", "s3://bucket/a/b", True),
    ],
)
def test_a_pattern_matches_whole_urls(pattern: str, text: str, good: bool) -> None:
    assert matches_pattern(pattern, text) is good


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not matches_pattern("*a" * 1000, "a" * 8000 + "b")
