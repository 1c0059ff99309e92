"""The network of the paper "Vision Transformers for Segmentation", and its variants, without a convolution.

In the order of the forward pass:

    image_model              photographs, normalized and cut to patches: the base of every network
    patches                  images to patches and back; embeddings of patches and positions
    rotary                   positions as rotations of queries and keys
    blocks                   multi-head self-attention, MLP, and the pre-norm Transformer block of both
    encoder                  a Vision Transformer: patches -> tokens
    patch_decoder            the paper's: features and original patches -> pixels, each patch independently
    attention_decoder        ours: finer patches of the photograph ask the tokens around them, so without seams
    cubic_interpolation      from its logits of finer patches to those of pixels
    linear_decoder           one layer on the tokens, interpolated to pixels: the yardstick
    spiral_decoder           autoregressive: patch after patch, from the center outwards; causal blocks and their cache
    convolutional_decoder    that of old bundles, under its true name
    segmenter                the whole network: normalize -> patches -> encoder -> decoder
    classifier               the original ViT: the encoder with a classification head

and around it:

    summary              layer table, parameters, FLOPs and tokens of an image
    masked_autoencoder   pretraining of the encoder on photographs without labels
    published_names      names of tensors in transformers and timm -> ours
    published_families   what published encoders of a family have, and what files beside their weights say
    published_weights    published weights (Hugging Face, timm) -> weights of our encoder
    transfer             weights of one of our networks -> the start of another
    encoder_bundle       an encoder alone: `encoder.safetensors` and `config.json`
    bundle               a trained network: `model.safetensors` and `config.json`
    export               a trained network as one file that runs without this project: ONNX, or a program of torch

Shapes in docstrings: B images in a batch, H×W pixels, P side of a patch, N = (H/P)·(W/P) patches (tokens), D width of
a token, K classes.
"""

from typing import Literal

ExportFormat = Literal["onnx", "torch"]
"""What `export` writes: a file for ONNX Runtime and its like, or a program of `torch.export`."""
