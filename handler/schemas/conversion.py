"""`convert_output`: the format of output images and its options."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Options(BaseModel):
    """Options with the names of sharp, in camelCase. Unknown ones are ignored, as in comfyui-api."""

    model_config = ConfigDict(strict=True, frozen=True, alias_generator=to_camel, validate_by_name=True)


class JpegOptions(_Options):
    quality: int = Field(80, ge=1, le=100, description="Quality of the JPEG image.")
    progressive: bool = Field(False, description="Use progressive (interlace) scanning.")
    chroma_subsampling: Literal["4:2:0", "4:4:4"] = Field("4:2:0", description="4:4:4 keeps full chroma.")
    optimize_coding: bool = Field(True, description="Optimise the Huffman coding tables.")
    mozjpeg: bool = Field(
        False,
        description="mozjpeg's defaults: trellisQuantisation, overshootDeringing and optimizeScans on, "
        "quantisationTable 3.",
    )
    trellis_quantisation: bool = Field(False, description="Use trellis quantisation.")
    overshoot_deringing: bool = Field(False, description="Use overshoot deringing.")
    optimize_scans: bool = Field(False, description="Optimise the scan order (implies progressive).")
    quantisation_table: int = Field(0, ge=0, le=8, description="Quantisation table to use.")


class WebpOptions(_Options):
    quality: int = Field(80, ge=1, le=100, description="Quality of the WebP image.")
    alpha_quality: int = Field(100, ge=0, le=100, description="Quality of the alpha channel.")
    lossless: bool = Field(False, description="Use lossless compression.")
    near_lossless: bool = Field(False, description="Use near-lossless compression.")
    smart_subsample: bool = Field(False, description="Use high quality chroma subsampling.")
    preset: Literal["default", "picture", "photo", "drawing", "icon", "text"] = Field(
        "default", description="Preset for preprocessing and filtering."
    )
    effort: int = Field(4, ge=0, le=6, description="CPU effort, from 0 (fastest) to 6 (slowest).")


class PngOptions(_Options):
    """PNG has no options."""


class _Format(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class ConvertJpeg(_Format):
    format: Literal["jpeg", "jpg"]
    options: JpegOptions = JpegOptions()


class ConvertWebp(_Format):
    format: Literal["webp"]
    options: WebpOptions = WebpOptions()


class ConvertPng(_Format):
    format: Literal["png"]
    options: PngOptions = PngOptions()


ConvertOutput = ConvertJpeg | ConvertWebp | ConvertPng
