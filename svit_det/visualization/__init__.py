"""Pictures of the kept tokens: drawn from a `UsagePicture`, as RGB uint8 arrays.

Charts are imported from their own modules, so that importing this package opens no chart library.
"""

from svit_det.visualization.block_maps import draw_attention_maps, draw_keep_maps
from svit_det.visualization.canvas import write_image
from svit_det.visualization.heatmap import draw_heatmap, paint_heatmap
from svit_det.visualization.object_drawing import draw_objects
from svit_det.visualization.objects import Objects
from svit_det.visualization.overview import draw_overview
from svit_det.visualization.scale import UsageScale
from svit_det.visualization.usage_picture import (
    FATES,
    KEPT,
    REACTIVATED,
    SKIPPED_FOR_GOOD,
    USED_LATER,
    UsagePicture,
    depth_map,
    token_fates,
)

__all__ = [
    "FATES",
    "KEPT",
    "REACTIVATED",
    "SKIPPED_FOR_GOOD",
    "USED_LATER",
    "Objects",
    "UsagePicture",
    "UsageScale",
    "depth_map",
    "draw_attention_maps",
    "draw_heatmap",
    "draw_keep_maps",
    "draw_objects",
    "draw_overview",
    "paint_heatmap",
    "token_fates",
    "write_image",
]
