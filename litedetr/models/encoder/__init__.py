"""The interleaved multi-scale encoder (Lite DETR, section 3.3, Fig. 3) and the full one it is compared with.

    encoder        the blocks, one after the other
    blocks         what a block does: one class for each update rule (`encoder.update`)
    layers         what a layer does: attention to the whole pyramid, then a feed-forward
    token_group    the tokens that a layer updates
    update_rules   the rules by name, and the settings that each of them takes

This file imports nothing: `detector_config` reads the rules, and the blocks read `detector_config`.
"""
