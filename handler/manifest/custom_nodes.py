"""Custom nodes: cloned from git, or installed by name by the `comfy` command, with what they need."""

import logging
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from handler.manifest.packages import InstallFailed, comfyui_python, install_pip, run_command
from handler.settings import Settings
from handler.urls import redact_url

logger = logging.getLogger(__name__)

_GIT_TIMEOUT_S = 900
_GIT = re.compile(r"(https?|ssh|git|file)://[^/]*/.+|[\w.-]+@[\w.-]+:.+|/.+")
_NAME = re.compile(r"\w[\w.-]*(@[\w.-]+)?")
_REF = re.compile(r"\w[\w./+@#=-]*")
# A ref behind an @, as npm and pip write it, and the addresses of a repository's pages at GitHub, GitLab and Bitbucket.
_AT_REF = re.compile(r"(?P<url>.+?)@(?P<ref>[^@/]+)")
_PAGES = (
    re.compile(r"(?P<url>.+?)/-/(?:tree|commit)/(?P<ref>.+)"),
    re.compile(r"(?P<url>.+?)/(?:tree|commit|releases/tag)/(?P<ref>.+)"),
    re.compile(r"(?P<url>.+?)/src/(?P<ref>[^/]+)(?:/.*)?"),
    re.compile(r"(?P<url>.+?)/commits/(?P<ref>[^/]+)"),
)
# What ComfyUI's nodes.py writes, in the order of its lines.
_CANNOT_IMPORT = re.compile(r"^Cannot import (.+) module for custom nodes: (.*)$", re.MULTILINE)
_IMPORT_FAILED = re.compile(r"^ *[\d.]+ seconds \(IMPORT FAILED\): (.+)$", re.MULTILINE)
# The same for ComfyUI's own, in comfy_extras/ and comfy_api_nodes/: some need torchaudio, for one.
_OWN_FAILED = re.compile(r"^IMPORT FAILED: (.+)$", re.MULTILINE)
# The key in a clone's own config for the ref of which it was made: a branch may have moved by the next start.
_REF_KEY = "comfyui-handler.ref"


@dataclass(frozen=True)
class Source:
    """A git repository, and the branch, tag or commit of it; None for its default branch."""

    url: str
    ref: str | None = None

    @property
    def name(self) -> str:
        """The folder of the node: the repository's name."""
        return re.split(r"[/:]", self.url)[-1].removesuffix(".git")


def parse_source(text: str) -> Source | None:
    """Where a node comes from; None for the name of a node in the registry. Raises ValueError for anything else."""
    if _NAME.fullmatch(text):
        return None
    text = text.rstrip("/")
    patterns = (_AT_REF, *_PAGES) if text.startswith(("http://", "https://")) else (_AT_REF,)
    match = next((match for pattern in patterns if (match := pattern.fullmatch(text))), None)
    source = Source(match["url"].rstrip("/"), match["ref"]) if match else Source(text)
    valid = _GIT.fullmatch(source.url) and re.fullmatch(r"\w[\w.-]*", source.name)
    if not valid or re.search(r"\s", text) or not (source.ref is None or _REF.fullmatch(source.ref)):
        raise ValueError(f"{redact_url(text)!r} is neither the URL of a git repository nor the name of a custom node")
    return source


def install_node(text: str, settings: Settings) -> None:
    """Bring a custom node into COMFY_HOME/custom_nodes, at the wanted ref, with its requirements. Raises InstallFailed.

    A clone of the same ref stays as it is. Its requirements are installed each time: the folder may be older than the Python
    environment.
    """
    what = f"custom node {redact_url(text)}"
    try:
        source = parse_source(text)
    except ValueError as exc:
        raise InstallFailed(f"{what}: {exc}.") from exc
    if source is None:
        _install_by_name(text, what, settings)
        return
    folder = settings.comfy_home / "custom_nodes" / source.name
    try:
        changed = _clone(source, folder, what)
    except OSError as exc:
        raise InstallFailed(f"{what}: {folder} cannot be written: {exc.strerror}.") from exc
    if (folder / "requirements.txt").is_file():
        install_pip(["-r", "requirements.txt"], f"{what}: requirements.txt", settings, cwd=folder)
    if changed and (folder / "install.py").is_file():
        _run_install_py(folder, what, settings)


def check_imports(settings: Settings) -> None:
    """Let ComfyUI import itself and all nodes once, without a GPU. Raises InstallFailed with the names of those that fail.

    ComfyUI 0.3.64 logs a node that it cannot import, continues without it, and exits with 0.
    """
    command = [*shlex.split(settings.cmd or ""), "--cpu", "--quick-test-for-ci", "--log-stdout"]
    log = run_command(command, "ComfyUI cannot be imported", cwd=settings.comfy_home)
    reasons = dict(_CANNOT_IMPORT.findall(log))
    failed = [f"{Path(path).name} ({reasons.get(path) or 'the log says more'})" for path in _IMPORT_FAILED.findall(log)]
    own = [f"{name} (the log says more)" for name in _OWN_FAILED.findall(log)]
    if own or failed:
        logger.error("%s", log)
        what = f"its own nodes {', '.join(own)}" if own else f"its custom nodes {', '.join(failed)}"
        raise InstallFailed(f"ComfyUI cannot import {what}.")
    logger.info("ComfyUI imports its nodes, custom ones among them")


def _install_by_name(name: str, what: str, settings: Settings) -> None:
    comfy = shutil.which("comfy")
    if comfy is None:
        raise InstallFailed(f"{what}: the `comfy` command, which installs nodes by name, is missing; give a git URL.")
    here = ["--skip-prompt", f"--workspace={settings.comfy_home}"]
    run_command([comfy, *here, "node", "install", name, "--fast-deps", "--exit-on-fail"], what)


def _run_install_py(folder: Path, what: str, settings: Settings) -> None:
    """As ComfyUI-Manager does. The reference does not, so a node may work without: a failure is only a warning."""
    try:
        run_command([comfyui_python(settings), "install.py"], f"{what}: install.py", cwd=folder)
    except InstallFailed as exc:
        logger.warning("%s", exc)


def _clone(wanted: Source, folder: Path, what: str) -> bool:
    """Bring the repository into the folder; returns whether that changed anything."""
    if folder.exists():
        _check_clone(wanted, folder, what)
        if _is_at(folder, wanted.ref):
            logger.info("%s is there already", what)
            return False
        _check_out(wanted, folder, what)
        return True
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _git(part, what, "init", "--quiet")
        _git(part, what, "remote", "add", "--", "origin", wanted.url)
        _check_out(wanted, part, what)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _check_clone(wanted: Source, folder: Path, what: str) -> None:
    if not (folder / ".git").exists():
        raise InstallFailed(f"{what}: {folder} is there already and is not a git repository.")
    origin = _git(folder, what, "remote", "get-url", "origin").strip()
    if origin.rstrip("/").removesuffix(".git") != wanted.url.removesuffix(".git"):
        raise InstallFailed(f"{what}: {folder} is there already and is a clone of {redact_url(origin)}.")


def _is_at(folder: Path, ref: str | None) -> bool:
    """Whether a clone was made of the wanted ref, or stands at it."""
    made_of = _ask_git(folder, "config", "--get", _REF_KEY)
    if ref is None:
        return made_of in ("", "HEAD")
    return made_of == ref or (
        bool(head := _ask_git(folder, "rev-parse", "HEAD"))
        and head == _ask_git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    )


def _check_out(wanted: Source, folder: Path, what: str) -> None:
    """Fetch only the wanted commit where the server supports it, which no server does for a shortened hash."""
    ref = commit = wanted.ref or "HEAD"
    try:
        _git(folder, what, "fetch", "--quiet", "--depth=1", "origin", ref)
        commit = "FETCH_HEAD"
    except InstallFailed:
        if not re.fullmatch(r"[0-9a-f]{4,40}", ref):
            raise
        _git(folder, what, "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    _git(folder, what, "checkout", "--quiet", "--detach", commit, "--")
    if (folder / ".gitmodules").is_file():
        _git(folder, what, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    _git(folder, what, "config", _REF_KEY, ref)


def _ask_git(folder: Path, *arguments: str) -> str:
    """The output of git; empty when it fails."""
    try:
        return _git(folder, "", *arguments).strip()
    except InstallFailed:
        return ""


def _git(folder: Path, what: str, *arguments: str) -> str:
    # It must not ask for a password, run a hook, or refuse a volume that belongs to another user.
    git = ["env", "GIT_TERMINAL_PROMPT=0", "git", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"]
    return run_command([*git, "-C", str(folder), *arguments], what, timeout_s=_GIT_TIMEOUT_S)
