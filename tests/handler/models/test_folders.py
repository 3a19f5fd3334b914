"""Models on mounted volumes: ComfyUI is told of them, and finds them."""

from pathlib import Path

import pytest

from emulator.comfyui.folders import Folders
from handler.errors import ComfyError
from handler.models.folders import command_line, extra_model_paths, make_model_dir
from tests.support.live import served
from tests.support.model_server import Files
from tests.support.volumes import settings, started, touched

# As ComfyUI 0.3.64's, in short, with a kind that is not in it.
SOURCE = """
folder_names_and_paths["checkpoints"] = ([os.path.join(models_dir, "checkpoints")], supported_pt_extensions)
folder_names_and_paths["text_encoders"] = (
    [os.path.join(models_dir, "text_encoders"), os.path.join(models_dir, "clip")], supported_pt_extensions)
folder_names_and_paths["custom_nodes"] = ([os.path.join(base_path, "custom_nodes")], set())
folder_names_and_paths['new_kind'] = ([os.path.join(models_dir, 'new')], supported_pt_extensions)
def add(folder_name, full_folder_path):
    folder_names_and_paths[folder_name] = ([full_folder_path], set())
"""


def test_comfyui_lists_the_models_of_every_layout(tmp_path: Path) -> None:
    serverless = touched(
        tmp_path / "runpod-volume",
        *("models/checkpoints/sub/a.safetensors", "models/clip/b.safetensors", "models/unet/c.sft"),
        *("models/ultralytics/bbox/d.pt", "models/custom_nodes/evil/e.safetensors", "vae/f.safetensors"),
        *("results/g.safetensors", "models/.cache/h.safetensors"),
    )
    pod = touched(
        tmp_path / "workspace",
        *("ComfyUI/models/loras/i.safetensors", "runpod-slim/ComfyUI/models/t2i_adapter/j.pth"),
        "ComfyUI/custom_nodes/evil/k.safetensors",
    )
    host = started(tmp_path / "home", serverless, pod, tmp_path / "missing")
    host.start()
    try:
        found = host.service.comfy.models()
        assert "sub/a.safetensors" in host.service.comfy.options("CheckpointLoaderSimple", "ckpt_name")
    finally:
        host.stop()
    assert found["text_encoders"] == ["b.safetensors"]
    assert found["diffusion_models"] == ["c.sft"]
    assert found["ultralytics"] == ["bbox/d.pt"]
    assert found["vae"] == ["f.safetensors"]
    assert "i.safetensors" in found["loras"]
    assert found["controlnet"] == ["j.pth"]
    listed = {name.rpartition("/")[2] for names in found.values() for name in names}
    assert listed.isdisjoint({"e.safetensors", "g.safetensors", "h.safetensors", "k.safetensors"})


def test_comfyui_lists_what_is_downloaded_to_a_volume(tmp_path: Path) -> None:
    """MODEL_DIR is not there yet, and the volume is empty."""
    volume = tmp_path / "runpod-volume"
    volume.mkdir()
    model_dir = volume / "models"
    host = started(tmp_path / "home", volume, MODEL_DIR=str(model_dir), ALLOW_PRIVATE_URLS="true")
    host.start()
    try:
        with served(Files({"/new.safetensors": b"new"}).app()) as url:
            for kind in ("checkpoints", "text_encoders"):
                path = host.service.models.download(f"{url}/new.safetensors", kind)[0]
                assert path == model_dir / kind / "new.safetensors"
        assert "new.safetensors" in host.service.comfy.options("CheckpointLoaderSimple", "ckpt_name")
        assert host.service.comfy.models()["text_encoders"] == ["new.safetensors"]
        # ComfyUI takes the first of two files of one name: it must be the one that was downloaded.
        assert host.service.comfy.folder_paths()["checkpoints"][0] == str(model_dir / "checkpoints")
    finally:
        host.stop()


def test_model_dir_is_not_made_where_its_volume_is_missing(tmp_path: Path) -> None:
    given = settings(tmp_path, MODEL_DIR=str(tmp_path / "runpod-volume" / "models"))
    make_model_dir(given)
    assert not given.model_dir.parent.exists()
    assert command_line(given) == []


def test_without_volumes_comfyui_is_told_nothing(tmp_path: Path) -> None:
    touched(tmp_path / "home", "models/checkpoints/own.safetensors")
    volume = tmp_path / "volume"
    (volume / "results").mkdir(parents=True)
    (volume / "models").symlink_to(tmp_path / "home" / "models")
    given = settings(tmp_path, volume, tmp_path / "missing")
    assert command_line(given) == []
    assert not given.cache_dir.exists()


def test_the_kinds_are_those_of_the_comfyui_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "folder_paths.py").write_text(SOURCE)
    volume = touched(tmp_path / "volume", "clip/a", "new/b", "loras/c", "custom_nodes/d", "models/loras/e")
    own = tmp_path / "home" / "models" / "loras"
    assert extra_model_paths(settings(tmp_path, volume)) == (
        "network_volumes:\n"
        # Not one of this ComfyUI's own: its own folder of that name is told as well.
        f'  "loras": |-\n    {own}\n    {volume}/models/loras\n'
        f'  "text_encoders": |-\n    {volume}/clip\n'
        f'  "new_kind": |-\n    {volume}/new\n'
    )


def test_the_same_folder_is_told_once(tmp_path: Path) -> None:
    volume = touched(tmp_path / "runpod-volume", "models/checkpoints/a")
    (tmp_path / "workspace").symlink_to(volume)
    text = extra_model_paths(settings(tmp_path, volume, tmp_path / "workspace", MODEL_DIR=str(volume / "models")))
    assert text.count("checkpoints") == 2  # the kind and the path
    assert text.startswith("model_dir:\n  is_default: true\n")
    assert "network_volumes" not in text


def test_folders_of_odd_names_arrive_as_they_are(tmp_path: Path) -> None:
    odd = ['say "hi": #1', "on", "ünï", " x", "a\\b", "1.5"]
    volume = touched(tmp_path / "my $HOME: #2", *(f"models/{name}/x.bin" for name in odd))
    touched(volume, "models/two\nlines/x.bin", "models/is_default/x.bin", "models/base_path/x.bin")
    _, file = command_line(settings(tmp_path, volume))
    told = Folders(tmp_path / "home", [Path(file)]).paths
    for name in odd:
        assert told[name] == [tmp_path / "home" / "models" / name, volume / "models" / name]
    assert told.keys().isdisjoint({"two\nlines", "two", "lines", "is_default", "base_path"})


def test_a_file_that_cannot_be_written_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    volume = touched(tmp_path / "volume", "loras/a")
    (tmp_path / "cache").touch()
    with pytest.raises(ComfyError, match="model folders cannot be written to"):
        command_line(settings(tmp_path, volume))


def test_the_stand_in_reads_such_files_as_comfyui_does(tmp_path: Path) -> None:
    """ComfyUI 0.3.64 was given these two files; its GET /internal/folder_paths said what is expected here."""
    first, second = tmp_path / "one" / "first.yaml", tmp_path / "second.yaml"
    touched(tmp_path, "one/first.yaml")
    first.write_text(
        "empty:\n"
        "a:\n  base_path: more\n  is_default: true\n"
        "  unet: |\n    models/unet2\n\n    /abs/dm\n"
        "  clip: models/../models/clip\n  own_kind: k\n"
    )
    second.write_text(
        f"b:\n  base_path: {tmp_path}/x\n  checkpoints: models/checkpoints/\n  vae: |-\n      v1\n      v2\n"
        "c:\n  loras: rel/loras\n  embeddings: /vol/emb\n"
    )
    home = tmp_path / "home"
    told = Folders(home, [first, second]).paths
    assert {kind: list(map(str, told[kind])) for kind in ("diffusion_models", "text_encoders", "own_kind")} == {
        "diffusion_models": [
            *("/abs/dm", f"{tmp_path}/one/more/models/unet2", f"{home}/models/unet", f"{home}/models/diffusion_models"),
            f"{home}/output/diffusion_models",
        ],
        "text_encoders": [
            *(f"{tmp_path}/one/more/models/clip", f"{home}/models/text_encoders", f"{home}/models/clip"),
            f"{home}/output/clip",
        ],
        "own_kind": [f"{tmp_path}/one/more/k"],
    }
    assert {kind: list(map(str, told[kind])) for kind in ("checkpoints", "vae", "loras", "embeddings")} == {
        "checkpoints": [f"{home}/models/checkpoints", f"{tmp_path}/x/models/checkpoints", f"{home}/output/checkpoints"],
        "vae": [f"{home}/models/vae", f"{tmp_path}/x/v1", f"{tmp_path}/x/v2", f"{home}/output/vae"],
        "loras": [f"{home}/models/loras", f"{tmp_path}/rel/loras", f"{home}/output/loras"],
        "embeddings": [f"{home}/models/embeddings", "/vol/emb"],
    }
    assert list(told)[-1] == "own_kind"
