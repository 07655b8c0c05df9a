"""Pictures of which tokens were used: numpy arrays in, RGB uint8 pictures out.

`draw_usage_chart` is imported from `svit_det.visualization.usage_chart`, so that the pictures here
need no matplotlib.
"""

from svit_det.visualization.heatmap import (
    KEPT,
    SKIPPED_FOR_GOOD,
    USED_LATER,
    depth_map,
    draw_attention_maps,
    draw_heatmap,
    draw_keep_maps,
    side_by_side,
    token_fates,
    write_image,
)

__all__ = [
    "KEPT",
    "SKIPPED_FOR_GOOD",
    "USED_LATER",
    "depth_map",
    "draw_attention_maps",
    "draw_heatmap",
    "draw_keep_maps",
    "side_by_side",
    "token_fates",
    "write_image",
]
