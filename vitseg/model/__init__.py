"""The network of *Vision Transformers for Segmentation*: image in, image out, and not one convolution.

In the order of the forward pass:

    patches      cut images to square patches and back; embed patches and their positions
    blocks       multi-head self-attention, MLP, and the pre-norm Transformer block of both
    encoder      patches -> tokens that know of each other, through the blocks
    decoder      the paper's: features + the original patches, reintroduced -> the pixels of each patch
    overlap      ours: the same at a finer grid, without seams; its tokens agree with their `neighbors`
    spiral       instead: patch after patch from the center outwards, each seeing those before; of `spiral_blocks`
    segmenter    the whole network: normalize -> cut -> encode -> decode
    classifier   the base ViT: the same encoder with a head that says one thing about the whole image

and around it:

    summary      layer table, parameters, FLOPs an image, tokens
    masked       the masked autoencoder that trains the encoder on photographs without labels
    published_weights   published weights (Hugging Face, timm) -> weights of our encoder
    transfer     weights of one of our networks -> the start of another
    encoder_bundle   an encoder alone: `encoder.safetensors` + `config.json`
    bundle       a trained network as a folder: `model.safetensors` + `config.json`

Shapes in docstrings: B images a batch, H and W pixels, P side of a patch, N = (H/P)·(W/P) patches (tokens),
D width of a token, K classes.
"""
