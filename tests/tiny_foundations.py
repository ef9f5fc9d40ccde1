"""Folders with randomly initialised small models in the hub's file layout, one for each class that a role loads."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vfusion3d.runs.profiles import Profile, load_profile

CAPTIONS = ("a red mug", "a tall blue and white castle tower", "a green chair")


def profile_with(**foundations: str) -> Profile:
    """The smoke profile with some of its models exchanged."""
    smoke = load_profile("smoke")
    return replace(smoke, foundations=replace(smoke.foundations, **foundations))


def word_tokenizer(texts: Iterable[str], **special: str) -> PreTrainedTokenizerFast:
    """Whole words; [PAD] is 0, [UNK] 1, [BOS] 2, and [EOS] the last one: open_clip pools at the largest id."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    names = ["[PAD]", "[UNK]", "[BOS]", *words, "[EOS]"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = split
    ends = [(name, names.index(name)) for name in ("[BOS]", "[EOS]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    special = {"unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]", **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_clip(folder: Path) -> torch.nn.Module:
    """An open_clip model for `local-dir:`, 16 features, whose tokenizer knows the words of `CAPTIONS`."""
    import open_clip
    from safetensors.torch import save_model

    tokenizer = word_tokenizer(CAPTIONS, pad_token="[PAD]")
    tokenizer.save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 32, "head_width": 16, "layers": 1},
        "text_cfg": {
            "context_length": 12,
            "vocab_size": len(tokenizer),
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "own",  # any name: the folder's own tokenizer is taken
        },
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return model


def save_chat(folder: Path, texts: Iterable[str], template: str | None = None, always: str | None = None):
    """A Llama whose tokenizer knows the words of `texts`. always: the one word that it answers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer([*texts, "yes no"])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=len(tokenizer) - 1, **sizes)).eval()
    if always:  # the same hidden state everywhere, and one word that points along it
        model.model.embed_tokens.weight.data[:] = 1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.data.zero_()
            layer.mlp.down_proj.weight.data.zero_()
        model.lm_head.weight.data.zero_()
        model.lm_head.weight.data[tokenizer.convert_tokens_to_ids(always)] = 1
    model.save_pretrained(folder)
    return model, tokenizer


def save_blip(folder: Path) -> None:
    """A BLIP-2 with an OPT that speaks in the words of `CAPTIONS`."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    size = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    tokenizer = word_tokenizer(CAPTIONS, pad_token="[PAD]")
    processor = Blip2Processor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=2)
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(image_size=16, patch_size=8, **size).to_dict(),
        qformer_config=Blip2QFormerConfig(encoder_hidden_size=16, vocab_size=8, **size).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_text_to_image(folder: Path) -> None:
    """A Stable Diffusion XL that draws 16x16 pixels."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = word_tokenizer(CAPTIONS, pad_token="[PAD]", model_max_length=16)
    folder.mkdir(parents=True, exist_ok=True)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    blocks = dict(block_out_channels=(32, 64), layers_per_block=1)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
        **blocks,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16, **blocks
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)


def identity_onnx(side: int) -> bytes:
    """An ONNX network whose output is its input (1, 3, side, side): as a mask, the picture's red channel."""

    def field(number: int, value: int | bytes) -> bytes:
        head = lambda kind: varint(number << 3 | kind)  # noqa: E731
        return head(0) + varint(value) if isinstance(value, int) else head(2) + varint(len(value)) + value

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    shape = b"".join(field(1, field(1, length)) for length in (1, 3, side, side))
    tensor = lambda name: field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))  # noqa: E731
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"identity") + field(11, tensor(b"x")) + field(12, tensor(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 13))
