#!/usr/bin/env python3
"""State maps as files (tools/map_file.h), and one map for several receivers.

For one producer, one start layer and the same tokens the normal equations of all receivers have one Gram matrix, ridge included:
W = G^-1 C, only C differs. The map that is best for the receivers together in the least squares solves (G + G) W = C1 + C2, so it
is the mean of their own maps: nothing has to be fitted again.

    tools/family/map_tools.py mean base-finder.map.gguf base-clerk.map.gguf shared.map.gguf
"""
import argparse
import sys
from dataclasses import dataclass

import numpy
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize

PREFIX = "cairn.state_map."


@dataclass
class StateMap:
    weight: numpy.ndarray  # [hidden][hidden], row: an output
    bias: numpy.ndarray    # [hidden]
    layer: int             # the run starts there
    producer: str
    receiver: str
    producer_digest: str = ""
    receiver_digest: str = ""  # empty: of no receiver alone


def read(path):
    reader = GGUFReader(path)
    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(numpy.float32) for t in reader.tensors}

    def field(key, otherwise=""):
        found = reader.fields.get(PREFIX + key)
        return otherwise if found is None else found.contents()

    if "state_map.u" in tensors:
        tensors["state_map.weight"] = tensors["state_map.u"] @ tensors["state_map.v"]
    if "state_map.weight" not in tensors or "state_map.bias" not in tensors:
        raise SystemExit(f"{path}: not a state map")
    return StateMap(tensors["state_map.weight"], tensors["state_map.bias"], int(field("layer", 0)), field("producer"),
                    field("receiver"), field("producer_digest"), field("receiver_digest"))


def write(path, state_map):
    writer = GGUFWriter(path, "cairn")
    writer.add_type("state_map")
    writer.add_uint32(PREFIX + "layer", state_map.layer)
    for key in ("producer", "receiver", "producer_digest", "receiver_digest"):
        if getattr(state_map, key):
            writer.add_string(PREFIX + key, getattr(state_map, key))
    writer.add_tensor("state_map.weight", numpy.ascontiguousarray(state_map.weight, dtype=numpy.float32))
    writer.add_tensor("state_map.bias", numpy.ascontiguousarray(state_map.bias, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mean(maps):
    first = maps[0]
    for other in maps[1:]:
        if (other.layer, other.producer_digest, other.weight.shape) != (first.layer, first.producer_digest, first.weight.shape):
            raise SystemExit("map_tools: the maps are not of one producer and one start layer")
    return StateMap(sum(m.weight for m in maps) / len(maps), sum(m.bias for m in maps) / len(maps), first.layer, first.producer,
                    "+".join(m.receiver for m in maps), first.producer_digest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mean",))
    parser.add_argument("maps", nargs="+", metavar="MAP", help="fitted on the same tokens with the same ridge")
    parser.add_argument("output", metavar="OUT")
    arguments = parser.parse_args()
    write(arguments.output, mean([read(path) for path in arguments.maps]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
