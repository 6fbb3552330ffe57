# SPDX-License-Identifier: MIT
"""Child of `inference.py`: how far one patch is from what the machine's matrix rate allows.

Prints JSON: a row for each engine and precision, with the operations of the rewritten network, the
rate of a large matrix product at that precision (the best of the runs, and of the libraries at
hand), the seconds of a patch, and for OpenVINO the seconds by kind of operation.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict

import numpy as np
from inference_jobs import engines

from segsrgan.inference.engines import engine_module
from segsrgan.networks import GeneratorSpec, build_generator, simplified
from segsrgan.networks.layers import FEW_FILTERS, ReflectConv3D

HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def operations(model):
    """Floating-point operations of the convolutions, as the rewritten network computes them."""
    total = 0
    for layer in model.layers:
        if not isinstance(layer, ReflectConv3D):
            continue
        voxels, channels = np.prod(layer.output.shape[1:4]), layer.input.shape[-1]
        taps = layer.kernel_size**3
        if layer.upsampling == 2:
            taps = 2**3  # each output voxel sees two coarse ones along each axis
        elif layer.strides == 1 and layer.filters <= FEW_FILTERS:
            taps = (layer.kernel_size + 1) ** 3  # a kernel wider by one, with stride 2
        total += 2 * int(voxels) * taps * channels * layer.filters
    return total


def best_of(runs, compute):
    """The shortest of several times, after one that is not counted."""
    compute()
    return min(_seconds(compute) for _ in range(max(3, runs)))


def matrix_rate(precision, size, runs):
    """Operations a second of a product of two square matrices."""
    seconds = []
    if precision == "float32":
        a = np.random.default_rng(0).random((size, size), dtype=np.float32)
        seconds.append(best_of(runs, lambda: a @ a))
    try:
        seconds.append(best_of(runs, _openvino_product(precision, size)))
    except ImportError:
        pass
    return 2 * size**3 / min(seconds)


def _openvino_product(precision, size):
    import openvino as ov
    import openvino.opset15 as op

    first = op.parameter([size, size], np.float32)
    second = np.random.default_rng(0).random((size, size), dtype=np.float32)
    # A constant, as weights are: it is brought into its best order once.
    product = op.matmul(first, op.constant(second), False, False)
    graph = ov.Model([op.result(op.reduce_mean(product, op.constant([1])))], [first])
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    request = ov.Core().compile_model(graph, "CPU", options).create_infer_request()
    return lambda: request.infer([second])


def profile(model, patch, precision):
    """Seconds by kind of operation of OpenVINO, the longest first."""
    import openvino as ov

    from segsrgan.inference.engines.openvino_graph import build_graph

    graph = build_graph(model, patch.shape[1:4], precision)
    graph.reshape(list(patch.shape))
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERF_COUNT": True}
    request = ov.Core().compile_model(graph, "CPU", options).create_infer_request()
    for _ in range(2):
        request.infer([patch])
    kinds = defaultdict(float)
    for node in request.get_profiling_info():
        kinds[node.node_type] += node.real_time.total_seconds()
    return dict(sorted(((k, t) for k, t in kinds.items() if t), key=lambda item: -item[1]))


def _seconds(compute):
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    size, edge, kernel = (256, 32, 4) if args.small else (4096, 128, 16)
    patch = np.random.default_rng(0).random((1, edge, edge, edge, 1), dtype=np.float32)
    model = simplified(build_generator(GeneratorSpec(kernel)), (edge,) * 3)
    made = {pair: engine_module(pair[0]).make(model, pair[1], None) for pair in engines()}
    times = {pair: [] for pair in made}
    for number in range(args.runs + 1):  # the first compiles
        for pair, engine in made.items():
            seconds = _seconds(lambda engine=engine: engine.predict_batch(patch, None))
            if number:
                times[pair].append(seconds)
    rows = []
    for (name, precision), seconds in times.items():
        rate, median = matrix_rate(precision, size, args.runs), statistics.median(seconds)
        row = {"engine": name, "precision": precision, "operations": operations(model)}
        row |= {"seconds": median, "min": min(seconds), "max": max(seconds), "matrix_rate": rate}
        row["times_the_limit"] = median * rate / row["operations"]
        if name == "openvino":
            row["profile"] = profile(model, patch, precision)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
