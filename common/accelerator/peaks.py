"""What a device can do at best, as its maker says."""

import re

FORMATS = ("float32", "tf32", "bfloat16", "float8")
# Dense peaks in TFLOPS, in the order of FORMATS, from the vendor's datasheets; "halved" where those
# count sparsity. A pattern is the whole name after MAKER: a variant has another name and a peak of
# its own, and so have MIG slices ("A100-SXM4-40GB MIG 1g.5gb") and vGPUs ("A10-4Q"). None of AMD's:
# an MI250X is two devices, and a partition of an MI300X has the whole card's name.
MAKER = r"(NVIDIA )?(Tesla |GeForce )?"  # drivers of different years print more or less of it
PEAK_TFLOPS = {
    r"B200": (75, 1100, 2250, 4500),  # HGX B200 datasheet, 2025, halved
    r"H100 80GB HBM3|H200": (67, 495, 989, 1979),  # H100 (SXM), H200 datasheets, 2024, halved
    r"GH200 (120GB|480GB|144G HBM3e)": (67, 494, 990, 1979),  # GH200 datasheet, 2023
    r"H100 NVL|H200 NVL": (60, 418, 835, 1671),  # H100, H200 datasheets, 2024, halved
    r"H100 PCIe": (51, 378, 756, 1513),  # H100 datasheet, 2023, halved
    r"A100-(SXM4?|PCIE)-(40|80)GB|A100 80GB PCIe": (19.5, 156, 312),  # A100 datasheet, 2020
    r"A30": (10.3, 82, 165),  # A30 datasheet, 2022
    r"A40": (37.4, 74.8, 149.7),  # A40 datasheet, 2021
    r"A10": (31.2, 62.5, 125),  # A10 datasheet, 2021
    r"L40S": (91.6, 183, 362, 733),  # L40S datasheet, 2023
    r"L40": (90.5, 90.5, 181, 362),  # L40 datasheet, 2022
    r"L4": (30.3, 60, 121, 242.5),  # L4 datasheet, 2023, halved
    r"RTX A6000": (38.7, 77.4, 154.8),  # GA102 whitepaper
    r"RTX 4090": (82.6, 82.6, 165.2, 330.3),  # Ada whitepaper 2.02, appendix A: float32 sums
    r"RTX 3090": (35.6, 35.6, 71),  # GA102 whitepaper, table 2: float32 sums
    r"T4": (8.1,),  # T4 datasheet, 2018
    r"V100-SXM2-(16|32)GB": (15.7,),  # V100 datasheet, 2018
    r"V100-PCIE-(16|32)GB": (14,),  # V100 datasheet, 2018
}


def peak_flops(name: str, number_format: str) -> float | None:
    """Dense peak in FLOP/s of the device with that name in that format; None if unknown."""
    for pattern, tflops in PEAK_TFLOPS.items():
        if re.fullmatch(f"{MAKER}({pattern})", name):
            peak = dict(zip(FORMATS, tflops, strict=False)).get(number_format)
            return peak and peak * 1e12
    return None
