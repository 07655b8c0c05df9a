#!/usr/bin/env python3
"""Runs a detector that tools/export.py wrote: numpy, opencv and onnxruntime, no PyTorch.

    python examples/run_onnx.py output/export/detector.onnx PICTURE RESULT.png

Draws masks and boxes at the left, and at the right how many blocks each token ran through.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def weights(old, new):
    """(new, old): what Pillow's bilinear resize weighs each old pixel with, times 2^22."""
    step = old / new
    wide = max(step, 1.0)
    table = np.zeros((new, old))
    for at in range(new):
        centre = (at + 0.5) * step
        first, last = max(int(centre - wide + 0.5), 0), min(int(centre + wide + 0.5), old)
        share = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) / wide), 0)
        table[at, first:last] = np.floor(share / share.sum() * 2**22 + 0.5)
    return table


def resized(image, height, width):
    """Along the rows, then the columns, each rounded: Pillow's pixels at equal proportions."""
    if width != image.shape[1]:
        image = np.einsum("wx,hxc->hwc", weights(image.shape[1], width), image, optimize=True)
        image = np.clip((image + 2**21) // 2**22, 0, 255)
    if height != image.shape[0]:
        image = np.einsum("hy,ywc->hwc", weights(image.shape[0], height), image, optimize=True)
        image = np.clip((image + 2**21) // 2**22, 0, 255)
    return image.astype(np.uint8)


def prepared(image, about):
    """(height, width, 3) RGB -> the graph's input, and (height, width) of the picture inside it."""
    height, width = image.shape[:2]
    factor = about["shorter_side"] / min(height, width)
    factor = min(factor, about["longest_side"] / max(height, width))
    inside = max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)
    whole = about["size"]
    if whole is None:
        step = about["size_divisor"]
        whole = [-(-side // step) * step for side in inside]
    elif inside != tuple(whole):
        factor = min(whole[0] / height, whole[1] / width)
        inside = max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)
        print(f"{width} x {height} pixels, resized to fit into {whole[1]} x {whole[0]}")
    canvas = np.empty((*whole, 3), np.float32)
    canvas[:] = about["mean"]
    pixels = resized(image, *inside)
    canvas[: inside[0], : inside[1]] = pixels if about["channels"] == "RGB" else pixels[..., ::-1]
    if about["channels"] == "BGR":
        canvas[inside[0] :] = canvas[:, inside[1] :] = about["mean"]
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]), inside


def pasted(logits, box, height, width):
    """(M, M) logits inside a box -> (height, width) probabilities, bilinear, 0 outside."""
    cells = np.arange(len(logits))
    sides = []
    for low, high, length in ((box[1], box[3], height), (box[0], box[2], width)):
        place = (np.arange(length) + 0.5 - low) / max(high - low, 1e-6) * len(logits) - 0.5
        sides.append(np.maximum(1 - np.abs(place[:, None] - cells), 0))
    return sides[0] @ (1 / (1 + np.exp(-logits.astype(np.float64)))) @ sides[1].T


def main(model, picture, result, least=0.5):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["svit_det"])
    bgr = cv2.imread(picture, cv2.IMREAD_COLOR)
    if bgr is None:
        sys.exit(f"run_onnx.py: {picture} is no picture that can be read.")
    height, width = bgr.shape[:2]
    given, inside = prepared(np.ascontiguousarray(bgr[..., ::-1]), about["input"])
    boxes, scores, classes, masks, keep = session.run(about["outputs"], {"image": given})
    boxes = boxes * np.tile([width / inside[1], height / inside[0]], 2)
    drawn = bgr.copy()
    for box, score, label, logits in zip(boxes, scores, classes, masks):
        if score >= least:
            mask = pasted(logits, box, height, width) >= about["mask_threshold"]
            drawn[mask] = drawn[mask] // 2 + np.array([0, 110, 20], np.uint8)
            corners = box.round().astype(int).tolist()
            cv2.rectangle(drawn, corners[:2], corners[2:], (0, 255, 255), 1)
            name = about["classes"][label] if about["classes"] else f"class {label}"
            print(f"{name} {score:.2f} at {corners}")
    rows, columns = (
        ((np.arange(full) + 0.5) * seen / full).astype(int) // about["patch_size"]
        for full, seen in zip((height, width), inside)
    )
    depth = keep[0].sum(axis=0)[rows][:, columns] / len(keep[0])
    heat = cv2.applyColorMap((255 * depth).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    cv2.imwrite(result, np.hstack([drawn, cv2.addWeighted(bgr, 0.35, heat, 0.65, 0)]))
    print(f"{about['policy']}: {depth.mean():.0%} of all block runs; wrote {result}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("run_onnx.py: give a model, a picture and a file for the result.")
    main(*sys.argv[1:])
