"""The GPUs that are compiled for: what XLA wants to know of a device that it cannot ask."""

# Of the public figures of each (XLA has them too, in xla/backends/gpu/target_config/specs).
_FORM = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory_per_core}
  threads_per_core_limit: 2048
  core_count: {core_count}
  fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {memory_bandwidth}
  l2_cache_size: {l2_cache_size}
  clock_rate_ghz: {clock_rate_ghz}
  device_memory_size: {device_memory_size}
  shared_memory_per_block_optin: {shared_memory_per_block_optin}
  cuda_compute_capability {{ major: {major} minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""

_DEVICES = {
    "sm_90": {
        "name": "NVIDIA H100 80GB HBM3",
        "major": 9,
        "core_count": 132,
        "fpus_per_core": 128,
        "clock_rate_ghz": 1.98,
        "memory_bandwidth": 3_352_320_000_000,
        "device_memory_size": 84_942_979_072,
        "l2_cache_size": 52_428_800,
        "shared_memory_per_core": 233_472,
        "shared_memory_per_block_optin": 232_448,
    },
    "sm_80": {
        "name": "NVIDIA A100-SXM4-80GB",
        "major": 8,
        "core_count": 108,
        "fpus_per_core": 64,
        "clock_rate_ghz": 1.41,
        "memory_bandwidth": 2_039_040_000_000,
        "device_memory_size": 85_100_068_864,
        "l2_cache_size": 41_943_040,
        "shared_memory_per_core": 167_936,
        "shared_memory_per_block_optin": 166_912,
    },
}

ARCHITECTURES = tuple(_DEVICES)


def target_config(architecture: str) -> str:
    """Returns XLA's GpuTargetConfigProto of an architecture's usual device, as text."""
    return _FORM.format(**_DEVICES[architecture])


def device_name(architecture: str) -> str:
    """Returns the name of the device that stands for an architecture."""
    return str(_DEVICES[architecture]["name"])


def core_count(architecture: str) -> int:
    """Returns the number of its multiprocessors."""
    return int(str(_DEVICES[architecture]["core_count"]))
