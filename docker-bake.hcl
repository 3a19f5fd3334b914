# The images of the three models: `docker buildx bake`. `docker buildx bake base` is the same without a model.

variable "IMAGE" { default = "ghcr.io/your-name/comfyui-handler" }
variable "COMFYUI_VERSION" { default = "0.3.64" }
variable "API_VERSION" { default = "0.1.0" }
variable "TORCH_VERSION" { default = "2.8.0" }
variable "CUDA_VERSION" { default = "12.8" }
variable "BASE_IMAGE" { default = "nvidia/cuda:12.8.1-base-ubuntu24.04" }
variable "PACKAGES_UNTIL" { default = "2025-11-01" }
variable "BAKE_MODELS" { default = "true" }
variable "RUN_AS" { default = "10001" }

function "tag" {
  params = [suffix]
  result = "${IMAGE}:comfy${COMFYUI_VERSION}-api${API_VERSION}-torch${TORCH_VERSION}-cuda${CUDA_VERSION}${suffix}"
}

group "default" {
  targets = ["flux-schnell", "flux-dev", "dreamshaper"]
}

target "base" {
  dockerfile = "Dockerfile.flux-schnell"
  target     = "base"
  platforms  = ["linux/amd64"]
  tags       = [tag("")]
  labels     = { "org.opencontainers.image.version" = API_VERSION }
  args = {
    BASE_IMAGE      = BASE_IMAGE
    COMFYUI_REF     = "v${COMFYUI_VERSION}"
    TORCH_VERSION   = TORCH_VERSION
    TORCH_INDEX_URL = "https://download.pytorch.org/whl/cu${replace(CUDA_VERSION, ".", "")}"
    PACKAGES_UNTIL  = PACKAGES_UNTIL
    BAKE_MODELS     = BAKE_MODELS
    RUN_AS          = RUN_AS
  }
}

target "model" {
  name       = model
  matrix     = { model = ["flux-schnell", "flux-dev", "dreamshaper"] }
  inherits   = ["base"]
  dockerfile = "Dockerfile.${model}"
  target     = model
  tags       = [tag("-${model}")]
  secret     = ["id=hf_token,env=HF_TOKEN"]
}
