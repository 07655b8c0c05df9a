#!/usr/bin/env python3
"""Runs a detector that tools/export.py wrote: numpy, opencv and onnxruntime, no PyTorch.

    python examples/run_onnx.py output/export/detector.onnx PICTURE RESULT.png

Draws masks and boxes at the left, and at the right a heat map: the number of blocks that kept each
token.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resized(image, *size):
    """The image at `size` (height, width), with the pixels of Pillow 13's bilinear resizing.

    The side that is resized first is rounded too: the width, unless the height loses far more.
    """
    lost = np.subtract(image.shape[:2], size)
    for axis in (0, 1) if lost[0] > max(2 * lost[1], 0) else (1, 0):
        new = size[axis]
        step = (old := image.shape[axis]) / new
        places = np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * step
        share = np.maximum(1 - np.abs(places / max(step, 1.0)), 0)
        share = np.floor(share / share.sum(axis=1, keepdims=True) * 2**22 + 0.5)
        image = np.moveaxis(np.tensordot(share, image, (1, axis)), 0, axis)
        image = np.clip((image + 2**21) // 2**22, 0, 255)
    return image.astype(np.uint8)


def prepared(image, about):
    """(height, width, 3) RGB -> the graph's input, and the picture's (height, width) inside it."""
    sides, whole = np.array(image.shape[:2]), about["size"]
    inside = size_at_test_time(sides, about["shorter_side"], about["longest_side"])
    if whole is None:
        whole = [-(-side // about["size_divisor"]) * about["size_divisor"] for side in inside]
    elif any(np.greater(inside, whole)):
        inside = rounded(sides * min(whole / sides))
        print(f"{sides[1]} x {sides[0]} pixels, resized to fit into {whole[1]} x {whole[0]}")
    canvas = np.full((*whole, 3), about["mean"], np.float32)
    order = 1 if about["channels"] == "RGB" else -1
    canvas[: inside[0], : inside[1]] = resized(image, *inside)[..., ::order]
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]), inside


def size_at_test_time(sides, shorter, longest):
    """The (height, width) at test time, rounded after the two steps of detectron2's rule."""
    new = np.where(sides == min(sides), shorter, sides * (shorter / min(sides)))
    return rounded(new * min(longest / max(new), 1))


def rounded(sides):
    return tuple(np.maximum((sides + 0.5).astype(int), 1).tolist())


def decoded(picture):
    """(height, width, 3) uint8 BGR, turned upright; transparency and bits above eight are lost."""
    if (bgr := cv2.imread(picture, cv2.IMREAD_COLOR)) is None:
        sys.exit(f"run_onnx.py: {picture} is no picture that can be read.")
    return bgr


def pasted(logits, box, *size):
    """(M, M) logits inside a box -> (height, width) probabilities, bilinear, 0 outside."""
    ways = []
    for low, high, length in zip(box[[1, 0]], box[[3, 2]], size):
        place = (np.arange(length) + 0.5 - low) / max(high - low, 1e-6) * len(logits) - 0.5
        ways.append(np.maximum(1 - np.abs(place[:, None] - np.arange(len(logits))), 0))
    return ways[0] @ (1 / (1 + np.exp(-logits.astype(np.float64)))) @ ways[1].T


def opened(model):
    """A session that runs the file, and what the file says about itself."""
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map["svit_det"])
    except Exception:  # onnxruntime has an exception of its own for each kind of bad file
        sys.exit(f"run_onnx.py: {model} is missing, or is no ONNX file of svit-det export.")
    if about["part"] != "detector":
        sys.exit(f"run_onnx.py: {model} is a {about['part']}; export it with --part detector.")
    return session, about


def main(model, picture, result, least=0.5):
    session, about = opened(model)
    plan, sets = about["keep_schedule"] or {}, ", ".join(about["train_sets"]) or "not said"
    pairs = zip(plan.get("layers", ()), plan.get("shares", ()))
    kept = ", ".join(f"{share:.0%} in block {layer}" for layer, share in pairs) or "none"
    print(f"svit_det {about['version']}, trained on: {sets}; kept by schedule: {kept}")
    bgr = decoded(picture)
    size, drawn = bgr.shape[:2], bgr.copy()
    given, inside = prepared(bgr[..., ::-1], about["input"])
    boxes, *found, keep = session.run(about["outputs"], {"image": given})
    boxes = boxes * np.tile(np.divide(size, inside)[::-1], 2)
    for box, score, label, logits in zip(boxes, *found):
        if score >= least:
            mask = pasted(logits, box, *size) >= about["mask_threshold"]
            drawn[mask] = drawn[mask] // 2 + np.array([0, 110, 20], np.uint8)
            corners = box.round().astype(int).tolist()
            cv2.rectangle(drawn, corners[:2], corners[2:], (0, 255, 255), 1)
            name = about["classes"][label] if about["classes"] else f"class {label}"
            print(f"{name} {score:.2f} at {corners}")
    depth = np.kron(keep[0].mean(axis=0), np.ones((about["patch_size"],) * 2))
    depth = cv2.resize(depth[: inside[0], : inside[1]], size[::-1], interpolation=cv2.INTER_NEAREST)
    heat = cv2.applyColorMap((255 * depth).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    both = np.hstack([drawn, cv2.addWeighted(bgr, 0.35, heat, 0.65, 0)])
    if not (cv2.haveImageWriter(result) and cv2.imwrite(result, both)):
        sys.exit(f"run_onnx.py: {result} cannot be written; give a .png in a folder that is there.")
    print(f"{about['policy']}: {depth.mean():.0%} of all block runs; wrote {result}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("run_onnx.py: give a model, a picture and a file for the result.")
    main(*sys.argv[1:])
