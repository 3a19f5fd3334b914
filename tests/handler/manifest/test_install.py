import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from handler.errors import HandlerError
from handler.manifest import custom_nodes, install, schema
from handler.manifest.custom_nodes import Source, parse_source
from handler.manifest.packages import InstallFailed, install_apt, install_pip, run_command
from handler.models.cache import ModelCache
from handler.settings import BadSettings
from tests.support.manifest_world import Git, World, imports, wheel
from tests.support.model_server import Files
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("comfyui-kjnodes", None),
        ("comfyui-kjnodes@1.0.5", None),
        ("https://github.com/o/r", Source("https://github.com/o/r")),
        ("https://github.com/o/r.git", Source("https://github.com/o/r.git")),
        ("https://github.com/o/r/tree/main", Source("https://github.com/o/r", "main")),
        ("https://github.com/o/r/tree/feature/x", Source("https://github.com/o/r", "feature/x")),
        ("https://github.com/o/r/commit/204f6d5", Source("https://github.com/o/r", "204f6d5")),
        ("https://github.com/o/r/releases/tag/v1.0", Source("https://github.com/o/r", "v1.0")),
        ("https://github.com/o/r@v1.0.0", Source("https://github.com/o/r", "v1.0.0")),
        ("https://github.com/o/r.git@v1", Source("https://github.com/o/r.git", "v1")),
        ("https://gitlab.com/g/s/r/-/tree/dev", Source("https://gitlab.com/g/s/r", "dev")),
        ("https://gitlab.com/g/r/-/commit/abcdef", Source("https://gitlab.com/g/r", "abcdef")),
        ("https://bitbucket.org/o/r/src/main/sub/dir", Source("https://bitbucket.org/o/r", "main")),
        ("https://bitbucket.org/o/r/commits/abcdef", Source("https://bitbucket.org/o/r", "abcdef")),
        ("https://user:token@github.com/o/r", Source("https://user:token@github.com/o/r")),
        ("git@github.com:o/r.git", Source("git@github.com:o/r.git")),
        ("/srv/src/r.git@main", Source("/srv/src/r.git", "main")),
    ],
)
def test_where_a_node_comes_from(text: str, found: Source | None) -> None:
    assert parse_source(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "--upload-pack=x", "-x", "ext::sh -c x", "https://h/o/r@--x", "https://h/o/..", "../r", "https://h/o/r tree"],
)
def test_what_is_no_node_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        parse_source(text)


@pytest.mark.parametrize(
    ("ref", "content"), [("", "two"), ("@v1", "one"), ("@main", "two"), ("@feature/x", None), ("@nope", None)]
)
def test_a_node_is_cloned_at_its_ref(world: World, git: Git, tmp_path: Path, ref: str, content: str | None) -> None:
    if content is None:
        with pytest.raises(InstallFailed, match=r"custom node .*my-node"):
            custom_nodes.install_node(f"file://{tmp_path}/my-node.git{ref}", world.settings)
        assert [file.name for file in (world.home / "custom_nodes").glob("*")] == []
        return
    custom_nodes.install_node(f"file://{tmp_path}/my-node.git{ref}", world.settings)
    assert (world.home / "custom_nodes/my-node/__init__.py").read_text() == content
    assert [file.name for file in (world.home / "custom_nodes").iterdir()] == ["my-node"]


def test_a_node_is_cloned_at_a_commit_however_short(world: World, git: Git, tmp_path: Path) -> None:
    node = world.home / "custom_nodes/my-node/__init__.py"
    commit = git("rev-parse", "v1")
    custom_nodes.install_node(f"file://{tmp_path}/my-node.git@{commit[:8]}", world.settings)
    assert node.read_text() == "one"
    custom_nodes.install_node(f"file://{tmp_path}/my-node.git@main", world.settings)
    assert node.read_text() == "two"
    custom_nodes.install_node(f"file://{tmp_path}/my-node.git@{commit}", world.settings)
    assert node.read_text() == "one"


def test_a_node_that_is_there_is_left_alone(world: World, git: Git, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/my-node.git"
    custom_nodes.install_node(f"{url}@main", world.settings)
    shutil.rmtree(tmp_path / "my-node.git")
    custom_nodes.install_node(f"{url}@main", world.settings)
    other = tmp_path / "other/my-node.git"
    with pytest.raises(InstallFailed, match="is a clone of"):
        custom_nodes.install_node(str(other), world.settings)


def test_a_folder_that_is_no_clone_is_not_touched(world: World, git: Git, tmp_path: Path) -> None:
    (world.home / "custom_nodes/my-node").mkdir(parents=True)
    with pytest.raises(InstallFailed, match="is not a git repository"):
        custom_nodes.install_node(f"file://{tmp_path}/my-node.git", world.settings)


def test_a_nodes_requirements_are_installed_and_its_install_py_is_run(world: World, git: Git, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "requirements.txt").write_text(f"{wheel(tmp_path, 'node_needs_this')}\n")
    (tree / "install.py").write_text("import node_needs_this, pathlib; pathlib.Path('made').touch()")
    git("checkout", "--quiet", "main")
    git("add", ".")
    git("commit", "--quiet", "-m", "needs")
    git("push", "--quiet", "origin", "main")
    custom_nodes.install_node(f"file://{tmp_path}/my-node.git", world.settings)
    assert imports(world, "node_needs_this")
    assert (world.home / "custom_nodes/my-node/made").exists()


def test_a_node_whose_requirements_cannot_be_had_is_named(world: World, git: Git, tmp_path: Path) -> None:
    (tmp_path / "tree/requirements.txt").write_text("no-such-package\n")
    git("checkout", "--quiet", "main")
    git("add", ".")
    git("commit", "--quiet", "-m", "needs")
    git("push", "--quiet", "origin", "main")
    with pytest.raises(InstallFailed, match=r"my-node.git: requirements.txt: .*no-such-package") as caught:
        custom_nodes.install_node(f"file://{tmp_path}/my-node.git", world.settings)
    assert "\n" not in caught.value.message


def test_without_uv_pip_installs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    if shutil.which("uv"):
        pytest.skip("uv is among the system's own programs")
    settings = world.settings.model_copy(update={"cmd": None})
    install_pip([str(wheel(tmp_path, "by_pip"))], "by_pip", settings)
    assert (tmp_path / "target/by_pip.py").is_file()


def test_a_node_of_the_registry_needs_the_comfy_command(world: World) -> None:
    if not shutil.which("comfy"):
        with pytest.raises(InstallFailed, match="custom node comfyui_essentials: the `comfy` command"):
            custom_nodes.install_node("comfyui_essentials", world.settings)
    record = world.program("comfy")
    custom_nodes.install_node("comfyui_essentials", world.settings)
    here = f"--skip-prompt --workspace={world.home}"
    assert record.read_text().strip() == f"{here} node install comfyui_essentials --fast-deps --exit-on-fail"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs Debian packages")
def test_debian_packages_are_installed_by_apt_get(world: World) -> None:
    record = world.program("apt-get")
    world.program("dpkg-query", code=1)
    install_apt(["ffmpeg", "libgl1"])
    assert record.read_text().splitlines() == [
        "noninteractive update",
        "noninteractive install -y --no-install-recommends -- ffmpeg libgl1",
    ]
    world.program("apt-get", code=100)
    with pytest.raises(InstallFailed, match="E: it is a fake"):
        install_apt(["ffmpeg"])


def test_debian_packages_that_are_there_need_nobody(world: World) -> None:
    """An image that is not root's is started with the manifest that it was built with."""
    record = world.program("apt-get")
    install_apt(["dpkg"])
    assert not record.exists()


def test_debian_packages_need_root(world: World) -> None:
    record = world.program("apt-get")
    world.program("dpkg-query", code=1)
    code = """if True:
        import os
        from handler.manifest.packages import install_apt
        os.geteuid() or os.setuid(65534)
        install_apt(['ffmpeg'])"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert "InstallFailed: apt packages ffmpeg: only root" in done.stderr
    assert not record.exists()


def test_a_command_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(InstallFailed, match=r"longer than 0\.3 s"):
        run_command(["sh", "-c", "sleep 60 & sleep 60"], "sleeping", timeout_s=0.3)
    assert time.monotonic() - began < 5


def test_the_references_own_manifest_is_taken(world: World) -> None:
    file = world.manifest("""
apt:
#   - git
pip: [numpy]
custom_nodes:
  - comfyui_essentials
  - https://github.com/username/repo@v1.0.0
models:
  before_start:
    - url: https://civitai.com/api/download/models/128713?type=Model
      local_path: models/checkpoints/dreamshaper_8.safetensors
    - {url: "s3://bucket/path/to/model.safetensors", local_path: /opt/x/model2.safetensors}
  after_start:
    - {url: "https://example.com/m.ckpt", folder: loras, auth: {type: bearer, token: secret}}
""")
    found = schema.read_manifest(file, world.settings)
    assert (found.apt, found.pip) == ([], ["numpy"])
    paths = [model.path(world.settings) for model in [*found.models.before_start, *found.models.after_start]]
    assert paths == [
        world.home / "models/checkpoints/dreamshaper_8.safetensors",
        Path("/opt/x/model2.safetensors"),
        world.home / "models/loras/m.ckpt",
    ]
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"custom_node": []}, "`custom_node` is not known; did you mean `custom_nodes`?"),
        ({"zzz": 1}, "`zzz` is not known; there are: apt, pip, custom_nodes, models"),
        ({"models": {"before": []}}, "models: `before` is not known; did you mean `before_start`?"),
        ({"models": {"before_start": [{"url": "http://x/y"}]}}, "models.before_start.0: it needs a `local_path`"),
        (
            {"models": {"after_start": [{"url": "x", "local_path": "y"}]}},
            "models.after_start.0.url: 'x' is not a URL",
        ),
        ({"models": {"after_start": [{"uri": "x", "local_path": "y"}]}}, "models.after_start.0: `uri` is not known"),
        ({"pip": "numpy"}, "pip: Input should be a valid list"),
        ({"apt": ["-o=x"]}, "apt: '-o=x' is not a valid package name"),
        ({"custom_nodes": ["--x"]}, "custom_nodes: '--x' is neither"),
    ],
)
def test_a_bad_manifest_is_one_line_that_names_the_place(world: World, given: Any, complaint: str) -> None:
    with pytest.raises(BadSettings) as caught:
        schema.load_manifest(world.with_manifest(**given))
    assert str(caught.value).startswith(f"MANIFEST_JSON: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("when", ["before_start", "after_start"])
@pytest.mark.parametrize(
    "given",
    [
        "models/checkpoints/",
        "models/checkpoints",
        "models/not-there-yet/",
        ".",
        "..",
        "models/checkpoints/..",
        "models/.",
    ],
)
def test_a_folder_is_no_place_for_a_model(world: World, given: str, when: str) -> None:
    """It was "there already": nothing was fetched, and an image without its model was built, with exit code 0."""
    (world.home / "models/checkpoints").mkdir(parents=True)
    model = {"url": "http://127.0.0.1:1/m.safetensors", "local_path": given}
    with pytest.raises(BadSettings) as caught:
        schema.load_manifest(world.with_manifest(models={when: [model]}))
    assert str(caught.value) == (
        f"MANIFEST_JSON: models.{when}.0: {given!r} is a folder; it has to be the path of a file, "
        "such as models/checkpoints/name.safetensors"
    )


def test_a_manifest_that_cannot_be_read_is_named(world: World) -> None:
    for file, complaint in [
        (world.home / "none.yaml", "No such file"),
        (world.manifest("", "manifest.txt"), "must end with"),
        (world.manifest("a: [", "bad.yaml"), "flow node"),
        (world.manifest("{", "bad.json"), "Expecting property name"),
    ]:
        with pytest.raises(BadSettings, match=f"MANIFEST='{file}': .*{complaint}") as caught:
            schema.load_manifest(world.settings.model_copy(update={"manifest": file}))
        assert "\n" not in str(caught.value)
    assert schema.load_manifest(world.settings) is None
    assert schema.load_manifest(world.settings.model_copy(update={"manifest": world.manifest("# nothing")}))


def test_models_are_downloaded_before_the_start_and_once(world: World, files: tuple[str, Files]) -> None:
    url, served_files = files
    served_files.renew({"/m.safetensors": b"m"})
    before = [
        {"url": f"{url}/m.safetensors", "local_path": "models/loras/sub/mine.safetensors"},
        {"url": f"{url}/gone", "local_path": str(world.home / "there")},
    ]
    (world.home / "there").write_text("is there already")
    settings = world.with_manifest(models={"before_start": before})
    for _ in range(2):
        install.apply_before_start(settings)
    assert (world.home / "models/loras/sub/mine.safetensors").read_bytes() == b"m"
    assert (world.home / "there").read_text() == "is there already"
    assert len(served_files.asked) == 1


def test_another_url_for_a_path_replaces_what_was_downloaded(world: World, files: tuple[str, Files]) -> None:
    url, served_files = files
    served_files.renew({"/1": b"one", "/2": b"two"})
    for path in ("1", "2"):
        model = {"url": f"{url}/{path}", "folder": "loras", "filename": "m.safetensors"}
        install.apply_before_start(world.with_manifest(models={"before_start": [model]}))
    assert (world.home / "models/loras/m.safetensors").read_bytes() == b"two"


def test_a_model_that_cannot_be_had_before_the_start_is_named(world: World, files: tuple[str, Files]) -> None:
    url, served_files = files
    served_files.renew({})
    model = {"url": f"{url}/none?sig=secret", "local_path": "models/m"}
    with pytest.raises(HandlerError, match=rf"^model {world.home}/models/m: {url}/none answered 404") as caught:
        install.apply_before_start(world.with_manifest(models={"before_start": [model]}))
    assert "secret" not in caught.value.message


def test_a_model_that_cannot_be_had_after_the_start_ends_nothing(world: World, files: tuple[str, Files]) -> None:
    url, served_files = files
    served_files.renew({"/good": b"good"})
    events: list[str] = []
    after = [{"url": f"{url}/{name}", "folder": "loras", "filename": name} for name in ("none", "good")]
    settings = world.with_manifest(models={"after_start": after})
    thread = install.apply_after_start(settings, ModelCache(settings, on_event=lambda event, _: events.append(event)))
    assert thread
    thread.join(20)
    assert events == ["file_failed", "file_downloaded"]
    assert (world.home / "models/loras/good").read_bytes() == b"good"
